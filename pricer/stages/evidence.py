"""evidence: what similar products cost and what words suggest, out of fold for training."""

from pathlib import Path

from pricer.evidence.alike import compare_splits, warnings
from pricer.evidence.approximate import describe
from pricer.evidence.folds import make_evidence
from pricer.evidence.models import write_models
from pricer.evidence.table import NEIGHBORS
from pricer.files import write_json, write_parquet, writing
from pricer.params import read_params
from pricer.products.items import SPLITS, read_items


def main(items_dir: Path, evidence_dir: Path, metrics_file: Path) -> None:
    """Write a table a split and the fitted models to `evidence_dir`, scores to `metrics_file`."""
    splits = {split: read_items(items_dir, split) for split in SPLITS}
    tables, models = make_evidence(splits, read_params().evidence)
    with writing(evidence_dir, folder=True) as partial:
        for split, table in tables.items():
            write_parquet(partial / f"{split}.parquet", table)
        write_models(partial / "models", models)
    facts = compare_splits(splits, tables)
    index = describe(models.index, models.vectors, NEIGHBORS)
    write_json(metrics_file, facts | {"index": index})
    if index["kind"] == "approximate":
        print(f"of the nearest {NEIGHBORS}, {index[f'recall_at_{NEIGHBORS}']:.1%} are found")
    for warning in warnings(facts):
        print(f"warning: {warning}")
    print(
        "mean absolute error of the evidence alone: "
        + "; ".join(
            f"{split} ${those['words_mae']:.2f} (words), ${those['neighbors_mae']:.2f} (neighbours)"
            for split, those in facts.items()
            if "neighbors_mae" in those
        )
    )
