"""Items in splits, and the counts of what did not get there."""

from collections import Counter
from typing import Any

import pandas as pd

from pricer.products import items as it

Splits = dict[str, pd.DataFrame]

BATCH = 50_000  # rows cleaned at once: the rest waits as compact columns


def split_and_count(
    items: pd.DataFrame,
    left_out: "Counter[str]",
    sizes: dict[str, int],
    *,
    seed: int,
    where: str,
    read: int,
) -> tuple[Splits, dict[str, Any]]:
    """Return distinct items in splits, and the counts of `count_splits`.

    Args:
        items: cleaned.
        left_out: how many rows cleaning left out, by reason.
        sizes: items by split.
        seed: of the splits.
        where: the source, for messages.
        read: how many rows there were.

    Raises:
        ItemsError: there are not enough items.
    """
    distinct = it.drop_duplicates(items)
    splits = it.split_items(distinct, sizes, seed=seed, where=where)
    return splits, count_splits(
        splits,
        read,
        left_out,
        len(items) - len(distinct),
        shared=0,
        unused=len(distinct) - sum(sizes.values()),
    )


def count_splits(
    splits: Splits,
    read: int,
    left_out: "Counter[str]",
    duplicates: int,
    *,
    shared: int,
    unused: int,
) -> dict[str, Any]:
    """Return what the record of every source holds: how the splits came about, and their prices.

    Args:
        splits: all of them.
        read: rows of the source.
        left_out: rows that are not usable, by reason.
        duplicates: items whose summary another has.
        shared: items left out because a later split has them.
        unused: items that no split had room for.
    """
    return {
        "read": read,
        "left_out": dict(sorted(left_out.items())),
        "duplicates": duplicates,
        "shared_between_splits": shared,
        "near_identical_titles": sum(map(it.near_identical_titles, splits.values())),
        "unused": unused,
        "splits": {
            split: {
                "n": len(items),
                "price_mean": float(items["price"].mean()),
                "price_median": float(items["price"].median()),
            }
            for split, items in splits.items()
        },
    }
