"""The trainer: a loss at completion positions, exact order and resume, guards, dollars."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import (
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from pricer.errors import PricerError
from pricer.model.attention import additive_mask, side_by_side, takes_rows_side_by_side
from pricer.model.padding import shared_tokens
from pricer.prices.batches import Reading, Share, predict_distributions
from pricer.prices.distribution import crps, interval, quantile
from pricer.prices.trie import PriceTrie
from pricer.training.checkpoints import (
    keep_newest,
    seal,
)
from pricer.training.examples import IGNORED, EpochOrder
from pricer.training.machines import collect
from pricer.training.trackers import Trackers

BEST = "best.safetensors"  # in a checkpoint, the adapter of the best evaluation so far
WHOLE = "whole.safetensors"  # in a checkpoint, the adapter of a model that is held in parts
# of the distributions that are judged while a model trains: the default of predict.max_dropped_mass
MAX_DROPPED_MASS = 0.2


@dataclass(frozen=True)
class Judged:
    """The validation products that are judged in dollars at every evaluation.

    Attributes:
        prompts: n of them.
        prices: (n,) USD.
        price_trie: of the prices up to the highest that is trained on.
    """

    prompts: list[str]
    prices: NDArray[np.float64]
    price_trie: PriceTrie


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with a loss, an order, guards and checkpoints of our own.

    The output layer runs at completion positions alone, on every device: the vocabulary is the
    widest layer of a small model, and a completion is a few of the last positions of a batch that
    ends together.

    Attributes:
        judged: products that are judged in dollars.
        trackers: to close when training ends.
        best: the adapter's weights at the evaluation of the lowest MAE, where that is kept.
        order: of the examples.
        batch_ids: the products of the batch that is trained on.
    """

    def __init__(self, *, judged: Judged, trackers: Trackers, **library: Any) -> None:
        """Take our own parts; `library` is what SFTTrainer takes."""
        super().__init__(**library)
        args = self.args
        grouped = args.train_sampling_strategy == "group_by_length"
        self.judged = judged
        self.trackers = trackers
        self.best: dict[str, torch.Tensor] = {}
        self.batch_ids: list[int] = []
        self.order = EpochOrder(
            [len(ids) for ids in self.train_dataset["input_ids"]],
            group=args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            if grouped
            else None,
            seed=args.seed,
        )

    def _send_telemetry(self) -> None:
        """Tell nobody: the library would name the model's kind and the GPU to the Hub."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
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
        run = Path(args.output_dir)
        checkpoint = run / f"checkpoint-{self.state.global_step}"
        collect(checkpoint)
        whole = self.gathered_weights()
        if args.should_save:
            if whole:
                save_file(whole, checkpoint / WHOLE)
            if self.best:
                save_file(self.best, checkpoint / BEST)
            seal(checkpoint)
            keep_newest(run, limit)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Load the adapter; into parts ourselves, for peft 0.21 finds no weight in wrapped layers.

        What the library has written of them is empty, and it would go on with a fresh adapter.
        """
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        weights = load_file(Path(resume_from_checkpoint) / WHOLE)
        with FullyShardedDataParallel.state_dict_type(
            self.model, StateDictType.FULL_STATE_DICT, FullStateDictConfig()
        ):
            unknown = self.model.load_state_dict(weights, strict=False).unexpected_keys
        if unknown:
            raise PricerError(f"{resume_from_checkpoint}: no such weights in the model: {unknown}")

    def gathered_weights(self) -> dict[str, torch.Tensor]:
        """Return the adapter's weights of a model that the processes hold in parts.

        All processes have to call it; the first one gets them. Empty for a model held whole.
        """
        if not self.is_fsdp_enabled:
            return {}
        weights = self.accelerator.get_state_dict(self.model)
        return {name: weight for name, weight in weights.items() if "lora_" in name}

    def evaluation_loop(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Take the validation loss, and the scores in dollars from the price distributions."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # parts of a model have to be run by all processes at once
        alone = self.is_fsdp_enabled
        found = predict_distributions(
            self.model,
            self.processing_class,
            self.judged.price_trie,
            self.judged.prompts,
            Reading(MAX_DROPPED_MASS, batch_size=self.args.per_device_eval_batch_size),
            Share() if alone else Share(self.args.process_index, self.args.world_size),
        )
        scores = dollar_scores(self.judged.prices, found.probabilities)
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
            "a smaller train.max_grad_norm, or compute.dtype bfloat16"
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
            inputs: a batch from `collate`, each (b, longest).
            return_outputs: return the model's outputs too.
            num_items_in_batch: completion tokens of the whole optimizer step; None: this batch's.
        """
        labels = inputs["labels"]
        counted = (labels != IGNORED).any(dim=0).nonzero()
        if not len(counted):
            ids = ", ".join(map(str, inputs["id"].tolist()))
            raise PricerError(f"train: products {ids} have no completion to learn from")
        completion = labels.shape[1] - int(counted[0])
        tokens: dict[str, Any] = {
            key: value for key, value in inputs.items() if key not in ("id", "labels")
        }
        keep = completion + 1  # the last prompt position predicts the first token
        if takes_rows_side_by_side(self.model.config):
            tokens = one_row(tokens, keep, self.model.dtype)
        else:
            tokens["logits_to_keep"] = keep
        outputs = model(**tokens, use_cache=False)
        logits = outputs.logits.view(len(labels), keep, -1)[:, :-1].float()
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


def one_row(tokens: dict[str, torch.Tensor], keep: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a model takes to read a batch as one row, what all begin with only once.

    Args:
        tokens: input_ids, attention_mask and position_ids, each (b, longest).
        keep: positions at the end of each row whose logits are asked for.
        dtype: of attention scores.
    """
    b, longest = tokens["input_ids"].shape
    shared = min(shared_tokens(tokens["input_ids"], tokens["attention_mask"]), longest - keep)
    visible = torch.ones((longest, longest), dtype=torch.bool).tril()
    ends = shared + (longest - shared) * torch.arange(1, b + 1)[:, None] + torch.arange(-keep, 0)
    return {
        "input_ids": side_by_side(tokens["input_ids"], shared),
        "position_ids": side_by_side(tokens["position_ids"], shared),
        "attention_mask": additive_mask(visible & tokens["attention_mask"][:, None].bool(), dtype),
        "shared": shared,
        "logits_to_keep": ends.flatten(),
    }


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
        """Log with each checkpoint: a mean loss that spans it would be lost with the process.

        With each evaluation too: it may be the last of the run.
        """
        control.should_log |= control.should_save or control.should_evaluate


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
        evaluations = evaluations_of(state)
        since = len(evaluations) - 1 - evaluations.index(best_evaluation(evaluations))
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


def evaluations_of(state: TrainerState) -> list[dict[str, float]]:
    """Return what was logged of each evaluation, the oldest first."""
    return [log for log in state.log_history if "eval_mae" in log]


def best_evaluation(evaluations: list[dict[str, float]]) -> dict[str, float]:
    """Return the evaluation of the lowest MAE, the first of equals."""
    return min(evaluations, key=lambda log: log["eval_mae"])
