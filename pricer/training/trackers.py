"""Weights & Biases, TensorBoard and MLflow beside the curves: they watch, and never end a run."""

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pricer.errors import ParamsError

PROJECT = "pricer"  # as the trackers call what runs belong to


def check_installed(names: Sequence[str]) -> None:
    """Raise ParamsError if a tracker is asked for that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ParamsError(
                f"train.report_to names {name}, which is not installed: "
                f"run `pip install 'pricer[{name}]'` or `pip install {name}`"
            )


class Trackers(TrainerCallback):
    """Log a run's params and curves to trackers; one that fails is told in a line and left.

    What was logged before the checkpoint that a run resumes from is logged again, so that the
    newest run of each tracker is whole.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        folder: Path,
        run_name: str,
        tags: list[str],
        params: dict[str, Any],
        curves: dict[str, str],
    ) -> None:
        """Take what is logged; nothing is opened before training begins.

        Args:
            names: of "wandb", "tensorboard", "mlflow".
            folder: where they keep what they have on this machine.
            run_name: of the run.
            tags: of the run.
            params: by dotted key.
            curves: the trainer's name of each curve, and ours.
        """
        check_installed(names)
        self.names = names
        self.folder = folder.resolve()
        self.run_name = run_name
        self.tags = tags
        self.params = {key: _plain(value) for key, value in params.items()}
        self.curves = curves
        self.open: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the trackers, and log params and what there is of the curves."""
        if not state.is_world_process_zero:
            return
        for name in self.names:
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
        self.folder.mkdir(parents=True, exist_ok=True)
        tracker: Any
        if name == "wandb":
            tracker = WandBTracker(
                PROJECT,
                name=self.run_name,
                tags=self.tags,
                dir=str(self.folder),
                # without a key it would ask for one; `wandb sync` sends the run later
                mode=None if _has_wandb_key() or "WANDB_MODE" in os.environ else "offline",
            )
        elif name == "tensorboard":
            tracker = TensorBoardTracker(self.run_name, self.folder / "tensorboard")
        else:
            # a folder needs no database and no server; MLflow wants to be told that it is meant
            os.environ.setdefault("MLFLOW_TRACKING_URI", (self.folder / "mlflow").as_uri())
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            tracker = MLflowTracker(
                PROJECT, run_name=self.run_name, tags={tag: "true" for tag in self.tags}
            )
        tracker.start()
        self.open[name] = tracker
        tracker.store_init_configuration(self.params)
        if name == "tensorboard" and self.tags:
            tracker.log({"tags": ", ".join(self.tags)}, step=0)

    def _log(self, logs: dict[str, float], step: int) -> None:
        values = {name: float(logs[key]) for key, name in self.curves.items() if key in logs}
        if not values:
            return
        for name, tracker in list(self.open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step=step))  # type: ignore[misc]

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.open.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"training goes on without {name}: {reason}", file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    """Return a param as trackers take it: lists as text, the rest as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _has_wandb_key() -> bool:
    import wandb

    return bool(wandb.login(prompt=False))
