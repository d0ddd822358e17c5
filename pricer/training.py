"""LoRA fine-tuning of a quantized base model on prompts and completions."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from datasets import Dataset
from dvclive import Live
from scmrepo.exceptions import SCMError
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from pricer.checkpoints import keep_newest, seal
from pricer.errors import ParamsError, PricerError
from pricer.lora import lora_config
from pricer.params import Lora, Train
from pricer.prompts import encode_completions, encode_prompts

IGNORED = -100  # the label of a token that does not count in the loss

# what goes to the curves: the trainer's name, ours
CURVES = {
    "loss": "train_loss",
    "eval_loss": "validation_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
}


def build_examples(tokenizer: PreTrainedTokenizerBase, prompts: pd.DataFrame) -> Dataset:
    """Return token ids and labels of a prompts table; the prompt's labels are ignored."""
    texts, completions = prompts["prompt"].tolist(), prompts["completion"].tolist()
    prompt_ids = encode_prompts(tokenizer, texts)
    completion_ids = encode_completions(tokenizer, texts, completions)
    return Dataset.from_dict(
        {
            "id": prompts["id"].tolist(),
            "input_ids": [p + c for p, c in zip(prompt_ids, completion_ids, strict=True)],
            "labels": [
                [IGNORED] * len(p) + c for p, c in zip(prompt_ids, completion_ids, strict=True)
            ],
        }
    )


def pad_left(examples: list[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return a batch (b, longest) padded on the left, so that all completions end together.

    Every real token keeps the position it has alone. `id` (b,) says which products they are.
    """
    longest = max(len(example["input_ids"]) for example in examples)
    shape = (len(examples), longest)
    input_ids = torch.full(shape, pad_token_id)
    labels = torch.full(shape, IGNORED)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    for row, example in enumerate(examples):
        start = longest - len(example["input_ids"])
        input_ids[row, start:] = torch.tensor(example["input_ids"])
        labels[row, start:] = torch.tensor(example["labels"])
        attention_mask[row, start:] = 1
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return {
        "id": torch.tensor([example["id"] for example in examples]),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "labels": labels,
    }


class EpochOrder(Sampler[int]):
    """The order of examples in each epoch, from the seed and the epoch alone.

    No other random number has a part in it, so a resumed run goes on where it was.
    """

    def __init__(self, lengths: list[int], *, group: int | None, seed: int) -> None:
        """Take what the order depends on.

        Args:
            lengths: tokens of each example.
            group: examples of an optimizer step, to be of like lengths; None for a random order.
            seed: of the shuffling.
        """
        self.lengths = lengths
        self.group = group
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of one epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.group is None:
            return iter(torch.randperm(len(self.lengths), generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.group, generator=generator))


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with a loss, an order, guards and checkpoints of our own.

    The output layer runs at completion positions alone, on every device: the vocabulary is the
    widest layer of a small model, and a completion is a few of the last positions of a batch that
    is padded on the left.
    """

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        args = self.args
        grouped = args.train_sampling_strategy == "group_by_length"
        self.order = EpochOrder(
            [len(ids) for ids in self.train_dataset["input_ids"]],
            group=args.train_batch_size * args.gradient_accumulation_steps if grouped else None,
            seed=args.seed,
        )
        return self.order

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint, mark it as complete, and only then remove older ones."""
        args = self.args
        limit, args.save_total_limit = args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            args.save_total_limit = limit
        if args.should_save:
            run = Path(args.output_dir)
            seal(run / f"checkpoint-{self.state.global_step}")
            keep_newest(run, limit)

    def training_step(self, model: torch.nn.Module, inputs: Any, *args: Any) -> torch.Tensor:
        """Run one batch forward and backward; refuse a loss that is no number or exactly zero."""
        self.batch_ids = inputs["id"].tolist()
        loss: torch.Tensor = super().training_step(model, inputs, *args)
        value = float(loss)
        if not math.isfinite(value) or value == 0:
            what = "is exactly 0" if value == 0 else f"is {value}"
            raise PricerError(f"train: the loss {what} {self._where()}")
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Return the gradient's norm; before the weights change, refuse one that is none."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value = float(norm)
        if not math.isfinite(value):
            raise PricerError(f"train: the gradient norm is {value} {self._where()}")
        if value == 0 and self.state.global_step == 0:
            raise PricerError(
                "train: no gradient reaches any weight of the adapter at step 1: "
                "are lora.target_modules layers that the model uses?"
            )
        return norm

    def _where(self) -> str:
        return (
            f"at step {self.state.global_step + 1} (products {', '.join(map(str, self.batch_ids))})"
            ": try a lower train.learning_rate, a longer train.warmup_steps, "
            "a smaller train.max_grad_norm, or quantization.dtype bfloat16"
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the summed cross-entropy of the completion tokens, divided by their number.

        Args:
            model: the model, wrapped for training.
            inputs: a batch from `pad_left`, each (b, longest).
            return_outputs: return the model's outputs too.
            num_items_in_batch: completion tokens of the whole optimizer step; None: this batch's.
        """
        labels = inputs["labels"]
        counted = (labels != IGNORED).any(dim=0).nonzero()
        if not len(counted):
            ids = ", ".join(map(str, inputs["id"].tolist()))
            raise PricerError(f"train: products {ids} have no completion to learn from")
        completion = labels.shape[1] - int(counted[0])
        outputs = model(
            **{key: value for key, value in inputs.items() if key not in ("id", "labels")},
            use_cache=False,
            logits_to_keep=completion + 1,  # the last prompt position predicts the first token
        )
        logits = outputs.logits[:, :-1].float()
        targets = labels[:, -completion:]
        loss = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        if num_items_in_batch is None:
            num_items_in_batch = (targets != IGNORED).sum()
        elif self.args.average_tokens_across_devices:
            # counted over all processes, whose gradients are averaged
            loss = loss * self.accelerator.num_processes
        loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class Curves(TrainerCallback):
    """Write the curves that DVC plots: a TSV file each, by step."""

    def __init__(self, live: Live) -> None:  # noqa: D107
        self.live = live

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what was logged before the checkpoint that a run resumes from."""
        for logs in state.log_history:
            self._write(logs["step"], logs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the values of one step."""
        self._write(state.global_step, logs or {})

    def _write(self, step: float, logs: dict[str, float]) -> None:
        self.live.step = int(step)
        for key, name in CURVES.items():
            if key in logs:
                self.live.log_metric(name, float(logs[key]))


class ExactResume(TrainerCallback):
    """Keep apart from a checkpoint nothing that the rest of a run depends on."""

    def __init__(self, trainer: CompletionTrainer) -> None:  # noqa: D107
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the order of examples which epoch begins; of a resumed run, the one it was in."""
        self.trainer.order.epoch = int(state.epoch or 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log with each checkpoint: a mean loss that spans it would be lost with the process."""
        control.should_log |= control.should_save


class LossBar(ProgressCallback):
    """The trainer's progress bar with the loss beside the time left."""

    def __init__(self) -> None:  # noqa: D107
        super().__init__()
        self.losses: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar; a log file gets a line now and then, a terminal a live one."""
        if state.is_world_process_zero:
            interval = 0.1 if sys.stderr.isatty() else 30
            self.training_bar = tqdm(
                total=state.max_steps,
                desc="train",
                mininterval=interval,
                initial=state.global_step,
            )
        self.current_step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest losses."""
        shown = {"loss": "loss", "eval_loss": "validation"}
        if self.training_bar is not None and logs:
            self.losses |= {
                name: f"{float(logs[key]):.3f}" for key, name in shown.items() if key in logs
            }
            self.training_bar.set_postfix(self.losses, refresh=False)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Open no second bar for an evaluation."""


def build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_prompts: pd.DataFrame,
    validation_prompts: pd.DataFrame,
    *,
    lora: Lora,
    train: Train,
    dtype: torch.dtype,
    checkpoints: Path,
    curves: Path,
) -> SFTTrainer:
    """Return a trainer with a fresh adapter on `model`, seeded before the adapter is made.

    Args:
        model: the base model; it gets the adapter's layers.
        tokenizer: its tokenizer.
        train_prompts: prompts table.
        validation_prompts: prompts table; the first `train.validation_size` rows are used.
        lora: the adapter's params.
        train: the training params.
        dtype: compute type.
        checkpoints: folder for the checkpoints of this run alone.
        curves: folder for the curves.

    Raises:
        ParamsError: what the params ask for cannot be had on this machine.
    """
    on_cpu = model.device.type == "cpu"
    _check_available(train, on_cpu)
    adapter = lora_config(model, lora)
    own_keys = {"validation_size"}
    args = SFTConfig(
        output_dir=str(checkpoints),
        **train.model_dump(exclude=own_keys),
        eval_strategy="steps",
        max_length=None,  # lengths were checked when the prompts were made
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=False,
        logging_nan_inf_filter=False,
    )
    trainer = CompletionTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=build_examples(tokenizer, train_prompts),
        eval_dataset=build_examples(tokenizer, validation_prompts.head(train.validation_size)),
        data_collator=lambda examples: pad_left(examples, tokenizer.pad_token_id),
        peft_config=adapter,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # the trainer made them bfloat16, which loses the small updates late in the schedule
            parameter.data = parameter.data.float()
    # the slice of completion positions is strided, for which the output layer would copy its whole
    # weight once a row: most of the time and memory of a step
    trainer.model.get_output_embeddings().register_forward_pre_hook(
        lambda layer, hidden: (hidden[0].contiguous(),)
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossBar)
    trainer.add_callback(ExactResume(trainer))
    trainer.add_callback(Curves(_open_curves(curves)))
    return trainer


def run_training(trainer: SFTTrainer, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train to the end, evaluate once more, and return what goes into `metrics/train.json`.

    Args:
        trainer: from `build_trainer`.
        checkpoint: a complete one of the same run to go on from.
    """
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    validation = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    trained = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    return {
        "steps": trainer.state.global_step,
        "examples": len(trainer.train_dataset),
        "trainable_parameters": sum(trained),
        "train_loss": losses[-1] if losses else None,
        "validation_loss": validation[-1],
        "validation_loss_best": min(validation),
    }


def save_adapter(trainer: SFTTrainer, folder: Path, *, base_model: str) -> None:
    """Write a standard PEFT adapter without base weights.

    Args:
        trainer: after training.
        folder: an existing folder.
        base_model: what the adapter's configuration names as its base model.
    """
    config = trainer.model.peft_config["default"]
    config.base_model_name_or_path = base_model
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    trainer.model.save_pretrained(str(folder), save_embedding_layers=False)


def _open_curves(folder: Path) -> Live:
    try:
        return Live(str(folder), save_dvc_exp=False, dvcyaml=False)
    except SCMError:
        raise PricerError(
            "git has no commit here yet, and DVCLive needs one: `git add -A && git commit`"
        ) from None


def _check_available(train: Train, on_cpu: bool) -> None:
    if on_cpu and not train.optim.startswith("adamw_torch"):
        raise ParamsError(
            f"train.optim {train.optim} needs a GPU: use adamw_torch, or set quantization.device"
        )
    for tracker in train.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise ParamsError(f"train.report_to names {tracker}: run `pip install {tracker}` first")
