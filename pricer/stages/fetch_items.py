"""fetch@items: products from the configured source, cleaned and split."""

from pathlib import Path

from pricer.files import write_json, writing
from pricer.params import read_params
from pricer.products.items import SPLITS, write_items
from pricer.products.sources import fetch_items


def main(items_dir: Path, metrics_file: Path) -> None:
    """Write one Parquet file a split to `items_dir` and where they come from to `metrics_file`."""
    splits, record = fetch_items(read_params().items)
    if moved := record.pop("moved", None):
        print(moved)
    with writing(items_dir, folder=True) as partial:
        write_items(partial, splits)
    write_json(metrics_file, record)
    if without := record.get("without_noise_free_price"):
        print(f"noise_free_price is left out: {without} products have none that is a price")
    print(
        f"{record['source']}: {record['read']} products read, "
        + ", ".join(f"{split} {record['splits'][split]['n']}" for split in SPLITS)
        + f"; left out: {sum(record['left_out'].values())} invalid or out of range, "
        f"{record['duplicates']} duplicates, {record['shared_between_splits']} shared by splits"
        + (f"; not used: {record['unused']} beyond these sizes" if record["unused"] else "")
    )
