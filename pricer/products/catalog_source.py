"""Items of the built-in catalogue."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pandas as pd

from pricer.products import items as it
from pricer.products.catalog import generate_products
from pricer.products.splits import BATCH, Splits, split_and_count


def catalog_items(
    sizes: dict[str, int], *, seed: int, noise: float, min_price: float, max_price: float
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of the built-in catalogue and the record of what was made.

    Args:
        sizes: items by split.
        seed: of the products and of the splits.
        noise: standard deviation of log(price / noise-free price).
        min_price: USD.
        max_price: USD.
    """
    n = sum(sizes.values())
    # a few products turn out with the same title and stay together: some spare ones fill the splits
    products = generate_products(
        n + n // 50 + 20, seed=seed, noise=noise, min_price=min_price, max_price=max_price
    )
    parts, left_out, read = [], Counter[str](), 0
    for batch in _batches(products):
        rows = pd.DataFrame(batch)
        items, dropped = it.clean_products(
            rows, where="catalog", on_invalid="error", min_price=min_price, max_price=max_price
        )
        parts.append(items)
        left_out += dropped
        read += len(rows)
    items = pd.concat(parts, ignore_index=True)
    splits, counts = split_and_count(items, left_out, sizes, seed=seed, where="catalog", read=read)
    origin = f"the catalogue built into `pricer` (CC0), seed {seed}"
    return splits, {"origin": origin} | counts


def _batches(products: Iterable[Any]) -> Iterator[list[Any]]:
    products = iter(products)
    while batch := list(islice(products, BATCH)):
        yield batch
