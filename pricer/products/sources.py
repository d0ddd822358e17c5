"""Where items come from, told apart here alone: each source records what it is in words."""

from pathlib import Path
from typing import Any

import pandas as pd

from pricer.params import Catalog, Files, HubItems, Items
from pricer.products.catalog_source import catalog_items
from pricer.products.file_source import file_items
from pricer.products.hub_source import hub_items
from pricer.products.raw_source import raw_items
from pricer.products.splits import Splits


def fetch_items(items: Items) -> tuple[Splits, dict[str, Any]]:
    """Return the splits of the configured source, and the record of where they come from.

    Returns:
        items by split, and `source`, `origin` (the source in words, for cards), the counts of
        `count_splits`, where there are some `without_noise_free_price`, and for a data set on the
        Hub its commit and, in `moved`, what to tell of a revision that is none.

    Raises:
        ItemsError: the source has no usable items, or not enough.
        HubError: what the Hub refuses or cannot deliver.
    """
    price_range = {"min_price": items.min_price, "max_price": items.max_price}
    match items.source:
        case "catalog":
            catalog = items.catalog
            splits, record = catalog_items(
                _sizes(catalog), seed=catalog.seed, noise=catalog.noise, **price_range
            )
        case "files":
            files = items.files
            splits, record = file_items(
                Path(files.path),
                _sizes(files),
                seed=files.seed,
                on_invalid=files.on_invalid,
                **price_range,
            )
        case "raw":
            files = items.files
            splits, record = raw_items(
                Path(files.path), _sizes(files), seed=files.seed, raw=items.raw, **price_range
            )
        case "hub":
            hub = items.hub
            splits, record = hub_items(
                hub.dataset, hub.revision, hub.config, _sizes(hub), **price_range
            )
    splits, gaps = _noise_free_for_all_or_none(splits)
    return splits, {"source": items.source} | record | gaps


def _noise_free_for_all_or_none(splits: Splits) -> tuple[Splits, dict[str, int]]:
    """Return splits without `noise_free_price` if some products have none, and how many these are.

    What it is compared with would be other products than those that are judged.
    """
    column = "noise_free_price"
    if not any(column in items for items in splits.values()):
        return splits, {}
    without = sum(
        int(items.get(column, pd.Series(index=items.index)).isna().sum())
        for items in splits.values()
    )
    if not without:
        return splits, {}
    kept = {split: items.drop(columns=column, errors="ignore") for split, items in splits.items()}
    return kept, {"without_noise_free_price": without}


def _sizes(source: Catalog | Files | HubItems) -> dict[str, Any]:
    return {
        "train": source.train_size,
        "validation": source.validation_size,
        "test": source.test_size,
    }
