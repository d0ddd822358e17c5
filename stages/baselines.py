"""baselines: what predictors without a language model make of the test split."""

from pathlib import Path

from pricer.files import write_parquet
from pricer.judging.baselines import predict_baselines
from pricer.params import read_params
from pricer.products.items import read_items


def main(items_dir: Path, predictions_file: Path) -> None:
    """Write every baseline's estimates to `predictions_file`."""
    estimates = predict_baselines(
        read_items(items_dir, "train"), read_items(items_dir, "test"), read_params().baselines
    )
    write_parquet(predictions_file, estimates)
    print(f"{len(estimates)} products: {', '.join(estimates.columns[2:])}")
