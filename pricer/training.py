"""LoRA fine-tuning of a quantized base model on prompts and completions."""

import gc
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
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
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from pricer.callbacks import CURVES, Curves, LossBar
from pricer.checkpoints import (
    checkpoint_step,
    find_start,
    keep_newest,
    require_space,
    seal,
    space_for_checkpoints,
)
from pricer.distribution import crps, interval, quantile
from pricer.errors import ParamsError, PricerError
from pricer.launch import from_first
from pricer.lora import lora_config
from pricer.params import Lora, Train
from pricer.price_tokens import PriceTrie, build_price_trie
from pricer.prompts import encode_completions, encode_prompts
from pricer.scoring import contiguous_output_layer, is_out_of_memory, predict_distributions
from pricer.trackers import Trackers

IGNORED = -100  # the label of a token that does not count in the loss
BEST = "best.safetensors"  # in a checkpoint, the adapter of the best evaluation so far
# of the distributions that are judged while a model trains: the default of predict.max_dropped_mass
MAX_DROPPED_MASS = 0.2
# train params that are not the library's
OWN_KEYS = {
    "auto_batch",
    "early_stopping_patience",
    "launch",
    "report_to",
    "run_name",
    "select",
    "tags",
    "validation_size",
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

    Attributes:
        products: the validation products that are judged in dollars at every evaluation.
        price_trie: of the prices up to the highest that is trained on.
        best: the adapter's weights at the evaluation of the lowest MAE, where that is kept.
        trackers: to close when training ends.
    """

    products: pd.DataFrame
    price_trie: PriceTrie
    best: dict[str, torch.Tensor]
    trackers: Trackers

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        args = self.args
        grouped = args.train_sampling_strategy == "group_by_length"
        self.order = EpochOrder(
            [len(ids) for ids in self.train_dataset["input_ids"]],
            group=args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            if grouped
            else None,
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
        self.accelerator.wait_for_everyone()  # each process writes a file of its own
        if args.should_save:
            run = Path(args.output_dir)
            checkpoint = run / f"checkpoint-{self.state.global_step}"
            if self.best:
                save_file(self.best, checkpoint / BEST)
            seal(checkpoint)
            keep_newest(run, limit)

    def evaluation_loop(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Take the validation loss, and the scores in dollars from the price distributions."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # parts of a model have to be run by all processes at once
        shared = not self.is_fsdp_enabled
        found = predict_distributions(
            self.model,
            self.processing_class,
            self.price_trie,
            self.products["prompt"].tolist(),
            max_dropped_mass=MAX_DROPPED_MASS,
            batch_size=self.args.per_device_eval_batch_size,
            max_new_tokens=0,
            rank=self.args.process_index if shared else 0,
            processes=self.args.world_size if shared else 1,
        )
        scores = dollar_scores(self.products["price"].to_numpy(float), found.probabilities)
        output.metrics.update({f"{metric_key_prefix}_{name}": scores[name] for name in scores})
        return output

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


def dollar_scores(
    truth: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> dict[str, float]:
    """Return MAE of the median and CRPS (USD), and the share of prices in the raw 80% intervals.

    Args:
        truth: (n,) USD.
        probabilities: (n, values), rows summing to 1.
    """
    low, high = interval(probabilities, 0.8)
    return {
        "mae": float(np.abs(truth - quantile(probabilities, 0.5)).mean()),
        "crps": float(crps(truth, probabilities).mean()),
        "coverage_80": float(((low <= truth) & (truth <= high)).mean()),
    }


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


class Selection(TrainerCallback):
    """Keep the adapter of the lowest validation MAE; stop when none better comes for a while."""

    def __init__(self, trainer: CompletionTrainer, *, keep: bool, patience: int | None) -> None:
        """Take what to do.

        Args:
            trainer: whose adapter it is.
            keep: hold the best adapter's weights.
            patience: evaluations without a lower MAE before training stops; None for no end.
        """
        self.trainer = trainer
        self.keep = keep
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the newest evaluation."""
        evaluations = _evaluations(state)
        since = len(evaluations) - 1 - evaluations.index(_best(evaluations))
        if self.keep and since == 0:
            self.trainer.best = {
                name: parameter.detach().cpu().clone()
                for name, parameter in self.trainer.model.named_parameters()
                if parameter.requires_grad
            }
        if self.patience is not None and since >= self.patience:
            control.should_training_stop = True
            # what would resume from it would go on
            control.should_save = False


def _evaluations(state: TrainerState) -> list[dict[str, float]]:
    return [log for log in state.log_history if "eval_mae" in log]


def _best(evaluations: list[dict[str, float]]) -> dict[str, float]:
    """Return the evaluation of the lowest MAE, the first of equals."""
    return min(evaluations, key=lambda log: log["eval_mae"])


def fit(
    load: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    train_prompts: pd.DataFrame,
    validation_prompts: pd.DataFrame,
    *,
    lora: Lora,
    train: Train,
    dtype: torch.dtype,
    checkpoints: Path,
    curves: Path,
    trackers: Path,
    params: dict[str, Any],
) -> tuple[CompletionTrainer, dict[str, Any], int]:
    """Train an adapter to the end, from the newest complete checkpoint of the same run on.

    When memory runs out and `train.auto_batch` is set, it goes on with half the batch and twice
    the accumulation.

    Args:
        load: loads the base model; called again when memory ran out.
        tokenizer: its tokenizer.
        train_prompts: prompts table.
        validation_prompts: prompts table; the first `train.validation_size` rows are used.
        lora: the adapter's params.
        train: the training params.
        dtype: compute type.
        checkpoints: folder for the checkpoints of this run alone.
        curves: folder for the curves.
        trackers: folder for what the trackers keep here.
        params: all that shapes the run, by dotted key, for the trackers.

    Returns:
        The trainer, whose model has the adapter that was selected; what goes into
        `metrics/train.json`; the step that it started from.

    Raises:
        ParamsError: what the params ask for cannot be had on this machine.
        PricerError: a guard stopped the run, or memory ran out.
    """
    rank, processes = int(os.environ.get("RANK", 0)), train.launch.processes
    while True:
        model: Any = None
        trainer: Any = None
        checkpoint, how = from_first(
            find_start(checkpoints) if rank == 0 else (None, ""), processes
        )
        try:
            model = load()
            if rank == 0:
                where = f"{model.device} in {dtype}".replace("torch.", "")
                print(f"training on {where}, {how}", flush=True)
            trainer = build_trainer(
                model,
                tokenizer,
                train_prompts,
                validation_prompts,
                lora=lora,
                train=train,
                dtype=dtype,
                checkpoints=checkpoints,
                curves=curves,
                trackers=trackers,
                params=params,
            )
            trained = trainer.model.get_nb_trainable_parameters()[0]
            if rank == 0 and train.save_strategy != "no":
                needed = space_for_checkpoints(checkpoints, trained, train.save_total_limit)
                require_space(checkpoints, needed)
            metrics = run_training(trainer, checkpoint)
            return trainer, metrics, checkpoint_step(checkpoint) if checkpoint else 0
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not train.auto_batch or train.per_device_train_batch_size == 1:
                raise PricerError(_out_of_memory(train)) from error
        # freed here, where the error no longer holds what was in use
        model = trainer = None
        gc.collect()
        torch.cuda.empty_cache()
        train = halved(train)
        print(
            f"out of memory: train.per_device_train_batch_size {train.per_device_train_batch_size}"
            f", gradient_accumulation_steps {train.gradient_accumulation_steps} from here on",
            flush=True,
        )


def halved(train: Train) -> Train:
    """Return params of half the batch, and the accumulation that keeps the optimizer's steps."""
    batch = train.per_device_train_batch_size
    smaller = next(size for size in range(batch // 2, 0, -1) if batch % size == 0)
    return train.model_copy(
        update={
            "per_device_train_batch_size": smaller,
            "per_device_eval_batch_size": max(1, train.per_device_eval_batch_size // 2),
            "gradient_accumulation_steps": train.gradient_accumulation_steps * (batch // smaller),
        }
    )


def _out_of_memory(train: Train) -> str:
    batch, steps = train.per_device_train_batch_size, train.gradient_accumulation_steps
    return (
        f"out of memory with train.per_device_train_batch_size {batch} and "
        f"per_device_eval_batch_size {train.per_device_eval_batch_size}: lower these "
        f"(gradient_accumulation_steps {steps * 2} makes up for half the batch), lower "
        "prompts.cutoff or lora.r, set train.activation_checkpointing, or let train.auto_batch "
        "halve the batch; `pricer inspect` estimates what is needed"
    )


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
    trackers: Path,
    params: dict[str, Any],
) -> CompletionTrainer:
    """Return a trainer with a fresh adapter on `model`, seeded before the adapter is made.

    The arguments are those of `fit`; the model gets the adapter's layers.
    """
    on_cpu = model.device.type == "cpu"
    if on_cpu and not train.optim.startswith("adamw_torch"):
        raise ParamsError(
            f"train.optim {train.optim} needs a GPU: use adamw_torch, or set quantization.device"
        )
    adapter = lora_config(model, lora)
    validation_prompts = validation_prompts.head(train.validation_size)
    args = SFTConfig(
        output_dir=str(checkpoints),
        **train.model_dump(exclude=OWN_KEYS),
        report_to="none",
        eval_strategy="steps",
        max_length=None,  # lengths were checked when the prompts were made
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,
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
        eval_dataset=build_examples(tokenizer, validation_prompts),
        data_collator=lambda examples: pad_left(examples, tokenizer.pad_token_id),
        peft_config=adapter,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # the trainer made them bfloat16, which loses the small updates late in the schedule
            parameter.data = parameter.data.float()
    trainer.products = validation_prompts
    trainer.price_trie = build_price_trie(tokenizer, round(train_prompts["price"].max()))
    trainer.best = {}
    trainer.trackers = Trackers(
        train.report_to,
        folder=trackers,
        run_name=train.run_name or checkpoints.name,
        tags=train.tags,
        params=params,
        curves=CURVES,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossBar)
    trainer.add_callback(ExactResume(trainer))
    trainer.add_callback(
        Selection(trainer, keep=train.select == "best", patience=train.early_stopping_patience)
    )
    if args.process_index == 0:
        trainer.add_callback(Curves(curves))
    trainer.add_callback(trainer.trackers)
    return trainer


def run_training(trainer: CompletionTrainer, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train to the end, put the selected adapter in place, return what goes into `train.json`.

    Args:
        trainer: from `build_trainer`.
        checkpoint: a complete one of the same run to go on from.
    """
    if checkpoint and (checkpoint / BEST).is_file():
        trainer.best = load_file(checkpoint / BEST)
    try:
        with contiguous_output_layer(trainer.model):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        trainer.trackers.close()
    evaluations = _evaluations(trainer.state)
    best = _best(evaluations)
    selected = best if trainer.best else evaluations[-1]
    weights = dict(trainer.model.named_parameters())
    for name, weight in trainer.best.items():
        weights[name].data.copy_(weight)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    trained = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    return {
        "steps": trainer.state.global_step,
        "best_step": best["step"],
        "selected_step": selected["step"],
        "examples": len(trainer.train_dataset),
        "trainable_parameters": sum(trained),
        "train_loss": losses[-1] if losses else None,
        **{CURVES[key]: selected[key] for key in CURVES if key.startswith("eval_")},
        "validation_mae_best": best["eval_mae"],
    }


def gathered_weights(trainer: CompletionTrainer) -> dict[str, torch.Tensor] | None:
    """Return the weights of a model that the processes hold in parts; None for one held whole.

    All processes have to call it.
    """
    if not trainer.is_fsdp_enabled:
        return None
    weights: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model)
    return weights


def save_adapter(
    trainer: CompletionTrainer,
    folder: Path,
    *,
    base_model: str,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a standard PEFT adapter without base weights.

    Args:
        trainer: after training.
        folder: an existing folder.
        base_model: what the adapter's configuration names as its base model.
        weights: from `gathered_weights`.
    """
    config = trainer.model.peft_config["default"]
    config.base_model_name_or_path = base_model
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    trainer.model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
