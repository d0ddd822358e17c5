"""What a run is logged to: DVCLive for DVC's plots, and trackers, which never end a run."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker
from dvclive import Live
from scmrepo.exceptions import SCMError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pricer.errors import PricerError, first_line
from pricer.launch import first_here

# what is logged: the trainer's name, ours
CURVES = {
    "loss": "train_loss",
    "eval_loss": "validation_loss",
    "eval_mae": "validation_mae",
    "eval_crps": "validation_crps",
    "eval_coverage_80": "validation_coverage_80",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
}
PROJECT = "pricer"  # as the trackers call what runs belong to


class Curves:
    """The curves that DVC plots: a TSV file each, by step. They are results: errors end a run."""

    def __init__(self, folder: Path) -> None:  # noqa: D107
        try:
            self.live = Live(str(folder), save_dvc_exp=False, dvcyaml=False)
        except SCMError:
            raise PricerError(
                "git has no commit here yet, and DVCLive needs one: `git add -A && git commit`"
            ) from None

    def log(self, values: dict[str, float], step: int) -> None:
        """Write the values of one step."""
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)


def no_curves(folder: Path) -> None:
    """Write the curves of an adapter that was not trained here: without a step."""
    for name in CURVES.values():
        file = folder / "plots" / "metrics" / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"step\t{name}\n", encoding="utf-8")


@dataclass(frozen=True)
class Logged:
    """What is logged, and where.

    Attributes:
        curves: folder for DVC's plots.
        names: of "wandb", "tensorboard", "mlflow".
        folder: where they keep what they have on this machine.
        run_name: of the run.
        tags: of the run.
        params: by dotted key.
    """

    curves: Path
    names: Sequence[str]
    folder: Path
    run_name: str
    tags: list[str]
    params: dict[str, Any]


class Trackers(TrainerCallback):
    """Log a run's curves to DVCLive, and with its params to trackers that are asked for.

    A tracker that fails is told in a line and left. What was logged before the checkpoint that a
    run resumes from is logged again, so that the curves and the newest run of each are whole.
    """

    def __init__(self, logged: Logged) -> None:
        """Take what is logged; no tracker but DVCLive is opened before training begins."""
        self.curves = Curves(logged.curves) if first_here() else None
        self.logged = logged
        self.open: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the trackers, and log params and what there is of the curves."""
        for name in self.logged.names if state.is_world_process_zero else ():
            self._try(name, lambda name=name: self._start(name))  # type: ignore[misc]
        for logs in state.log_history:
            self._log(logs, int(logs["step"]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the values of one step."""
        self._log(logs or {}, state.global_step)

    def close(self) -> None:
        """Close the trackers, also after a run that failed."""
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.finish)

    def _start(self, name: str) -> None:
        self.logged.folder.mkdir(parents=True, exist_ok=True)
        tracker: Any
        if name == "wandb":
            tracker = WandBTracker(
                PROJECT,
                name=self.logged.run_name,
                tags=self.logged.tags,
                dir=str(self.logged.folder),
                # without a key it would ask for one; `wandb sync` sends the run later
                mode=None if _has_wandb_key() or "WANDB_MODE" in os.environ else "offline",
            )
        elif name == "tensorboard":
            tracker = TensorBoardTracker(self.logged.run_name, self.logged.folder / "tensorboard")
        else:
            # a folder needs no database and no server; MLflow wants to be told that it is meant
            os.environ.setdefault("MLFLOW_TRACKING_URI", (self.logged.folder / "mlflow").as_uri())
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            tags = dict.fromkeys(self.logged.tags, "true")
            tracker = MLflowTracker(PROJECT, run_name=self.logged.run_name, tags=tags)
        tracker.start()
        self.open[name] = tracker
        tracker.store_init_configuration(
            {key: _plain(value) for key, value in self.logged.params.items()}
        )
        if name == "tensorboard" and self.logged.tags:
            tracker.log({"tags": ", ".join(self.logged.tags)}, step=0)

    def _log(self, logs: dict[str, float], step: int) -> None:
        values = {name: float(logs[key]) for key, name in CURVES.items() if key in logs}
        if not values:
            return
        if self.curves:
            self.curves.log(values, step)
        for name, tracker in list(self.open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step=step))  # type: ignore[misc]

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.open.pop(name, None)
            reason = first_line(error)
            print(f"training goes on without {name}: {reason}", file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    """Return a param as trackers take it: lists as text, the rest as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _has_wandb_key() -> bool:
    import wandb

    return bool(wandb.login(prompt=False))
