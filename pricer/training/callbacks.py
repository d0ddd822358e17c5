"""What a training run shows: the curves that DVC plots, and a progress bar."""

import sys
from pathlib import Path
from typing import Any

from dvclive import Live
from scmrepo.exceptions import SCMError
from tqdm import tqdm
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pricer.errors import PricerError

# what goes to the curves: the trainer's name, ours
CURVES = {
    "loss": "train_loss",
    "eval_loss": "validation_loss",
    "eval_mae": "validation_mae",
    "eval_crps": "validation_crps",
    "eval_coverage_80": "validation_coverage_80",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
}


class Curves(TrainerCallback):
    """Write the curves that DVC plots: a TSV file each, by step."""

    def __init__(self, folder: Path) -> None:  # noqa: D107
        try:
            self.live = Live(str(folder), save_dvc_exp=False, dvcyaml=False)
        except SCMError:
            raise PricerError(
                "git has no commit here yet, and DVCLive needs one: `git add -A && git commit`"
            ) from None

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
