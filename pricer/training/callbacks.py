"""What a training run does beside training: a progress bar with the losses, a backup."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pricer.training.backup import Backup


class Sending(TrainerCallback):
    """Have each checkpoint sent elsewhere, in the process that writes them."""

    def __init__(self, backup: Backup) -> None:  # noqa: D107
        self.backup = backup

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Send the one that was sealed just now."""
        self.backup.send(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the last one a moment."""
        self.backup.close()


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
        shown = {
            "loss": ("loss", ".3f"),
            "eval_loss": ("validation", ".3f"),
            "eval_mae": ("$", ".2f"),
        }
        if self.training_bar is not None and logs:
            self.losses |= {
                name: format(float(logs[key]), digits)
                for key, (name, digits) in shown.items()
                if key in logs
            }
            self.training_bar.set_postfix(self.losses, refresh=False)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Open no second bar for an evaluation."""
