"""One training run: from a base model and prompts to an adapter, resumed where it was cut."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
)
from trl import SFTConfig

from pricer.errors import ParamsError, PricerError
from pricer.launch import from_first
from pricer.model.lora import lora_config
from pricer.params import Lora, Train
from pricer.prices.batches import contiguous_output_layer, is_out_of_memory
from pricer.prices.trie import build_price_trie
from pricer.training.callbacks import CURVES, Curves, LossBar
from pricer.training.checkpoints import (
    checkpoint_step,
    find_start,
    require_space,
    space_for_checkpoints,
)
from pricer.training.examples import build_examples, pad_left
from pricer.training.trackers import Trackers
from pricer.training.trainer import (
    BEST,
    CompletionTrainer,
    ExactResume,
    Selection,
    best_evaluation,
    evaluations_of,
)

# train params that are not the library's
OWN_KEYS = {
    "auto_batch",
    "early_stopping_patience",
    "report_to",
    "run_name",
    "select",
    "tags",
    "validation_size",
}


def fit(
    load: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    train_prompts: pd.DataFrame,
    validation_prompts: pd.DataFrame,
    *,
    lora: Lora,
    train: Train,
    processes: int,
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
        processes: how many train this run.
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
    rank = int(os.environ.get("RANK", 0))
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
            f"train.optim {train.optim} needs a GPU: use adamw_torch, or set compute.device"
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
    evaluations = evaluations_of(trainer.state)
    best = best_evaluation(evaluations)
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
