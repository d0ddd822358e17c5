"""fetch@items: products from the configured source, cleaned and split."""

from pathlib import Path
from typing import Any

from pricer.files import write_json, writing
from pricer.params import Catalog, Files, HubItems, read_params
from pricer.products.items import SPLITS, write_items
from pricer.products.sources import catalog_items, file_items, hub_items


def main(items_dir: Path, metrics_file: Path) -> None:
    """Write one Parquet file a split to `items_dir` and the counts to `metrics_file`."""
    params = read_params().items
    price_range = {"min_price": params.min_price, "max_price": params.max_price}
    if params.source == "catalog":
        catalog = params.catalog
        splits, counts = catalog_items(
            _sizes(catalog), seed=catalog.seed, noise=catalog.noise, **price_range
        )
    elif params.source == "files":
        files = params.files
        splits, counts = file_items(
            Path(files.path),
            _sizes(files),
            seed=files.seed,
            on_invalid=files.on_invalid,
            **price_range,
        )
    else:
        hub = params.hub
        splits, counts = hub_items(
            hub.dataset, hub.revision, hub.config, _sizes(hub), **price_range
        )
        if hub.revision != counts["commit"]:
            print(
                f"{hub.dataset}: revision {hub.revision} is commit {counts['commit']} now, "
                "and can move: items.hub.revision set to that hash pins it"
            )
    with writing(items_dir, folder=True) as partial:
        write_items(partial, splits)
    write_json(metrics_file, counts)
    print(
        f"{params.source}: {counts['read']} products read, "
        + ", ".join(f"{split} {counts['splits'][split]['n']}" for split in SPLITS)
        + f"; left out: {sum(counts['left_out'].values())} invalid or out of range, "
        f"{counts['duplicates']} duplicates, {counts['shared_between_splits']} shared by splits"
    )


def _sizes(source: Catalog | Files | HubItems) -> dict[str, Any]:
    return {
        "train": source.train_size,
        "validation": source.validation_size,
        "test": source.test_size,
    }
