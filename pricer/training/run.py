"""One training run: from a base model and prompts to an adapter, resumed where it was cut."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
)
from transformers.modeling_utils import unwrap_model
from trl import SFTConfig

from pricer.errors import PricerError
from pricer.launch import from_first, in_first, rank
from pricer.model.base import dtype_name
from pricer.model.fused import fuse
from pricer.model.lora import lora_config
from pricer.params import Lora, Train
from pricer.prices.batches import contiguous_output_layer, is_out_of_memory
from pricer.prices.model_check import check_scores
from pricer.prices.trie import build_price_trie
from pricer.training.backup import Backup
from pricer.training.callbacks import LossBar, Sending
from pricer.training.checkpoints import (
    checkpoint_step,
    find_start,
    require_space,
    space_for_checkpoints,
)
from pricer.training.examples import build_examples, collate
from pricer.training.machines import hand_out
from pricer.training.trackers import CURVES, Logged, Trackers
from pricer.training.trainer import (
    BEST,
    CompletionTrainer,
    ExactResume,
    Judged,
    Selection,
    best_evaluation,
    evaluations_of,
)

# train params that are not the library's
OWN_KEYS = {
    "auto_batch",
    "backup",
    "early_stopping_patience",
    "report_to",
    "run_name",
    "select",
    "tags",
    "validation_size",
}


@dataclass(frozen=True)
class Run:
    """What a training run is made of, and where it writes.

    Attributes:
        lora: the adapter's params.
        train: the training params.
        dtype: compute type.
        tokenizer: the base model's.
        train_prompts: prompts table.
        validation_prompts: prompts table; the first `train.validation_size` rows are used.
        checkpoints: folder for the checkpoints of this run alone.
    """

    lora: Lora
    train: Train
    dtype: torch.dtype
    tokenizer: PreTrainedTokenizerBase
    train_prompts: pd.DataFrame
    validation_prompts: pd.DataFrame
    checkpoints: Path


def fit(
    load: Callable[[], PreTrainedModel], run: Run, logged: Logged
) -> tuple[CompletionTrainer, dict[str, Any], int]:
    """Train an adapter to the end, from the newest complete checkpoint of the same run on.

    When memory runs out and `train.auto_batch` is set, it goes on with half the batch and twice
    the accumulation.

    Args:
        load: loads the base model; called again when memory ran out.
        run: what is trained.
        logged: what of it is logged, and where.

    Returns:
        The trainer, whose model has the adapter that was selected; what goes into
        `metrics/train.json`; the step that it started from.

    Raises:
        ParamsError: what the params ask for cannot be had of this base model.
        PricerError: a guard stopped the run, or memory ran out.
    """
    backup = _backup(run)
    in_first(lambda: backup.restore() if backup else None)
    while True:
        try:
            return _fit_once(load, run, Trackers(logged), backup)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not run.train.auto_batch or run.train.per_device_train_batch_size == 1:
                raise PricerError(_out_of_memory(run.train)) from error
        # freed here, where the error no longer holds what was in use
        gc.collect()
        torch.cuda.empty_cache()
        run = replace(run, train=halved(run.train))
        print(
            "out of memory: "
            f"train.per_device_train_batch_size {run.train.per_device_train_batch_size}, "
            f"gradient_accumulation_steps {run.train.gradient_accumulation_steps} from here on",
            flush=True,
        )


def _backup(run: Run) -> Backup | None:
    """Return what sends a run's checkpoints elsewhere, in the process that writes them."""
    train = run.train
    if not train.backup or train.save_strategy == "no" or rank() > 0:
        return None
    return Backup(train.backup, run.checkpoints, train.save_total_limit)


def _fit_once(
    load: Callable[[], PreTrainedModel], run: Run, trackers: Trackers, backup: Backup | None
) -> tuple[CompletionTrainer, dict[str, Any], int]:
    first = rank() == 0
    checkpoint, how = from_first(find_start(run.checkpoints) if first else (None, ""))
    checkpoint = hand_out(checkpoint, run.checkpoints)
    model = load()
    if first:
        print(f"training on {model.device} in {dtype_name(run.dtype)}, {how}", flush=True)
    check_scores(model, run.tokenizer, "the base model")
    trainer = build_trainer(model, run, trackers)
    if first and run.train.save_strategy != "no":
        trained = trainer.model.get_nb_trainable_parameters()[0]
        # with a backup, one may be on its way and one may wait, which are removed here by then
        kept = run.train.save_total_limit + (2 if backup else 0)
        needed = space_for_checkpoints(run.checkpoints, trained, kept)
        require_space(run.checkpoints, needed)
    if backup:
        trainer.add_callback(Sending(backup))
    metrics = run_training(trainer, checkpoint)
    return trainer, metrics, checkpoint_step(checkpoint) if checkpoint else 0


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


def build_trainer(model: PreTrainedModel, run: Run, trackers: Trackers) -> CompletionTrainer:
    """Return a trainer with a fresh adapter on `model`, seeded before the adapter is made.

    Args:
        model: the base model; it gets the adapter's layers.
        run: what is trained.
        trackers: what the run is logged to.

    Raises:
        ParamsError: the model has no such layers as `lora.target_modules` names.
    """
    train, tokenizer = run.train, run.tokenizer
    validation_prompts = run.validation_prompts.head(train.validation_size)
    trainer = CompletionTrainer(
        judged=Judged(
            validation_prompts["prompt"].tolist(),
            validation_prompts["price"].to_numpy(float),
            build_price_trie(tokenizer, round(run.train_prompts["price"].max())),
        ),
        trackers=trackers,
        model=model,
        args=_arguments(run, on_cpu=model.device.type == "cpu"),
        processing_class=tokenizer,
        train_dataset=build_examples(tokenizer, run.train_prompts),
        eval_dataset=build_examples(tokenizer, validation_prompts),
        data_collator=lambda examples: collate(examples, tokenizer.pad_token_id),
        peft_config=lora_config(model, run.lora),
    )
    if not trainer.is_fsdp_enabled:  # a weight held in parts is known to the library alone
        fuse(trainer.model)
    if hasattr(trainer.model.config, "output_router_logits"):  # the loss is the completion's alone
        trainer.model.config.output_router_logits = False
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # the trainer made them bfloat16, which loses the small updates late in the schedule
            parameter.data = parameter.data.float()
    trainer.remove_callback(ProgressCallback)
    for callback in (
        LossBar(),
        ExactResume(trainer),
        Selection(trainer, keep=train.select == "best", patience=train.early_stopping_patience),
        trackers,
    ):
        trainer.add_callback(callback)
    return trainer


def _arguments(run: Run, *, on_cpu: bool) -> SFTConfig:
    """Return the library's own settings."""
    return SFTConfig(
        output_dir=str(run.checkpoints),
        **run.train.model_dump(exclude=OWN_KEYS),
        report_to="none",
        eval_strategy="steps",
        max_length=None,  # lengths were checked when the prompts were made
        bf16=run.dtype == torch.bfloat16,
        fp16=run.dtype == torch.float16,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=False,
        logging_nan_inf_filter=False,
    )


def run_training(trainer: CompletionTrainer, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train to the end, put the selected adapter in place, return what goes into `train.json`.

    Args:
        trainer: from `build_trainer`.
        checkpoint: a complete one of the same run to go on from.
    """
    if checkpoint and (checkpoint / BEST).is_file():
        trainer.best = load_file(checkpoint / BEST)
    # before processes may share it out
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    try:
        with contiguous_output_layer(trainer.model):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        trainer.trackers.close()
    evaluations = evaluations_of(trainer.state)
    best = best_evaluation(evaluations)
    selected = best if trainer.best else evaluations[-1]
    weights = dict(trainer.model.named_parameters())
    for name, weight in trainer.best.items():
        weights[name].data.copy_(weight)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {
        "steps": trainer.state.global_step,
        "best_step": best["step"],
        "selected_step": selected["step"],
        "examples": len(trainer.train_dataset),
        "trainable_parameters": trained,
        "train_loss": losses[-1] if losses else None,
        **{CURVES[key]: selected[key] for key in CURVES if key.startswith("eval_")},
        "validation_mae_best": best["eval_mae"],
    }


def whole_model(trainer: CompletionTrainer) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """Return the model after training, and the adapter's weights where processes hold it in parts.

    All processes have to call it.
    """
    weights = from_first(trainer.gathered_weights())  # each machine writes them
    # what wraps the parts is in the names of layers, not in those of weights
    return unwrap_model(trainer.model, recursive=True), weights
