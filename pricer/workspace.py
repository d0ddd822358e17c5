"""Where things lie in a project: what the pipeline leaves, for the commands that use it."""

from dataclasses import dataclass
from pathlib import Path

from pricer.errors import PricerError


@dataclass(frozen=True)
class Workspace:
    """A project's folders and files; stages get theirs from `dvc.yaml`."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        """Every knob."""
        return self.root / "params.yaml"

    @property
    def lock(self) -> Path:
        """What DVC recorded of the last run."""
        return self.root / "dvc.lock"

    @property
    def presets(self) -> Path:
        """Whole sets of knobs of its own, beside the library's."""
        return self.root / "presets"

    @property
    def items(self) -> Path:
        """One Parquet file a split."""
        return self.root / "data/items"

    @property
    def evidence(self) -> Path:
        """One Parquet file a split, and the fitted models."""
        return self.root / "data/evidence"

    @property
    def evidence_models(self) -> Path:
        """What gives any product its evidence."""
        return self.evidence / "models"

    @property
    def base_model(self) -> Path:
        """A Hugging Face model folder."""
        return self.root / "data/base_model"

    @property
    def prompts(self) -> Path:
        """One Parquet file a split."""
        return self.root / "data/prompts"

    @property
    def adapter(self) -> Path:
        """A PEFT adapter."""
        return self.root / "data/adapter"

    @property
    def predictions(self) -> Path:
        """One Parquet file a model, and one of the baselines."""
        return self.root / "data/predictions"

    @property
    def record(self) -> Path:
        """The tuned model's serving record."""
        return self.root / "data/serving/tuned.json"

    @property
    def monitor(self) -> Path:
        """The newest report of `pricer monitor`."""
        return self.root / "data/monitor"

    @property
    def metrics(self) -> Path:
        """Scores, curves, charts, the report."""
        return self.root / "metrics"


def require(*paths: Path) -> None:
    """Raise PricerError for the first path that is not there, with the command that makes it."""
    for path in paths:
        if not path.exists():
            there = path.is_absolute() or Path("dvc.yaml").exists()
            raise PricerError(
                f"{path} is missing: run `dvc repro` or `dvc checkout` first"
                + ("" if there else f", and from the project's root: {Path.cwd()} has no dvc.yaml")
            )
