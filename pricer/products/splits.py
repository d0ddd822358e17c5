"""Items in splits, and the counts of what did not get there."""

from collections import Counter
from typing import Any

import pandas as pd

from pricer.errors import ItemsError
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
    duplicates = len(items) - len(distinct)
    if len(distinct) < sum(sizes.values()) and (left_out or duplicates):
        asked = ", ".join(f"{split} {sizes[split]}" for split in it.SPLITS)
        raise ItemsError(
            f"{where}: {asked} asked for, {sum(sizes.values())} in all, but there are "
            f"{len(distinct)} usable distinct products in {read} rows"
            f"{told(left_out + Counter({'duplicates': duplicates}))}: "
            f"{_cure(distinct, left_out)}"
        )
    splits = it.split_items(distinct, sizes, seed=seed, where=where)
    return splits, count_splits(
        splits,
        read,
        left_out,
        duplicates,
        shared=0,
        unused=len(distinct) - sum(sizes.values()),
    )


def told(left_out: "Counter[str]") -> str:
    """Return in brackets how many rows were left out for what reason; nothing where none was."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.most_common() if n)
    return f" (left out: {reasons})" if reasons else ""


def _cure(distinct: pd.DataFrame, left_out: "Counter[str]") -> str:
    cures = ["lower the split sizes"] if len(distinct) else []
    if left_out:
        cures.append("look at the prices, items.min_price and items.max_price")
    return " or ".join(cures)


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
