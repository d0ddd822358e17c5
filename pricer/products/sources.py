"""Where items come from, told apart here alone: each source records what it is in words."""

from pathlib import Path
from typing import Any

from pricer.params import Catalog, Files, HubItems, Items
from pricer.products.catalog_source import catalog_items
from pricer.products.file_source import file_items
from pricer.products.hub_source import hub_items
from pricer.products.splits import Splits


def fetch_items(items: Items) -> tuple[Splits, dict[str, Any]]:
    """Return the splits of the configured source, and the record of where they come from.

    Returns:
        items by split, and `source`, `origin` (the source in words, for cards), the counts of
        `count_splits`, and for a data set on the Hub its commit and, in `moved`, what to tell of a
        revision that is none.

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
        case "hub":
            hub = items.hub
            splits, record = hub_items(
                hub.dataset, hub.revision, hub.config, _sizes(hub), **price_range
            )
    return splits, {"source": items.source} | record


def _sizes(source: Catalog | Files | HubItems) -> dict[str, Any]:
    return {
        "train": source.train_size,
        "validation": source.validation_size,
        "test": source.test_size,
    }
