"""baselines: what predictors without a language model make of the test split."""

from pathlib import Path

from pricer.evidence.models import read_models
from pricer.evidence.table import read_evidence
from pricer.files import write_parquet
from pricer.judging.baselines import Split, predict_baselines
from pricer.params import read_params
from pricer.products.items import read_items


def main(items_dir: Path, evidence_dir: Path, predictions_file: Path) -> None:
    """Write every baseline's estimates to `predictions_file`."""
    params = read_params()
    models, test = read_models(evidence_dir / "models"), read_items(items_dir, "test")
    estimates = predict_baselines(
        Split(
            read_items(items_dir, "train"),
            test,
            models.vectors,
            models.vectors_of(test["summary"].tolist()),
            read_evidence(evidence_dir, "test"),
            params.evidence.ridge_alpha,
            params.baselines,
        )
    )
    write_parquet(predictions_file, estimates)
    print(f"{len(estimates)} products: {', '.join(estimates.columns[2:])}")
