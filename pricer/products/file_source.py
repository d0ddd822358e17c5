"""Items in the user's own files."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from pricer.errors import ItemsError, quoted
from pricer.products import items as it
from pricer.products.readers import COMPRESSED, file_type, read_tables
from pricer.products.splits import BATCH, Splits, count_splits, split_and_count, told

WITH_PRICES = (".jsonl", ".json", ".csv", ".parquet", COMPRESSED)
ORIGIN = "the author's own files"


def file_items(
    path: Path,
    sizes: dict[str, int],
    *,
    seed: int,
    on_invalid: str,
    min_price: float,
    max_price: float,
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of the user's products and the record of what was read and left out.

    Args:
        path: a JSONL, JSON, CSV or Parquet file to split, or a folder with one file a split.
        sizes: items by split, for one file.
        seed: of the splits, for one file.
        on_invalid: "error" or "drop", for rows without usable text or price and for products
            that two split files share (they stay in the later of train, validation, test).
        min_price: USD.
        max_price: USD.

    Raises:
        ItemsError: what cannot be read or used, with the file and the row.
    """
    cleaning: Any = {"on_invalid": on_invalid, "min_price": min_price, "max_price": max_price}
    if not path.is_dir():
        items, left_out, read = _clean_file(path, **cleaning)
        splits, counts = split_and_count(
            items, left_out, sizes, seed=seed, where=str(path), read=read
        )
        return splits, {"origin": ORIGIN} | counts

    splits = {}
    read, unusable, duplicates = 0, dict[str, Counter[str]](), 0
    for split in it.SPLITS:
        file = split_file(path, split)
        items, unusable[split], rows = _clean_file(file, **cleaning)
        splits[split] = it.drop_duplicates(items)
        read += rows
        duplicates += len(items) - len(splits[split])
    shared = _part_splits(splits, path, on_invalid)
    for split, items in splits.items():
        if items.empty:
            raise ItemsError(
                f"{split_file(path, split)}: no usable products left"
                f"{told(unusable[split])}: look at items.min_price and items.max_price"
            )
    left_out = sum(unusable.values(), Counter[str]())
    counts = count_splits(splits, read, left_out, duplicates, shared=shared, unused=0)
    return splits, {"origin": ORIGIN} | counts


def split_file(folder: Path, split: str) -> Path:
    """Return the file of a folder that holds a split.

    Raises:
        ItemsError: there is none, or more than one.
    """
    found = [file for suffix in WITH_PRICES if (file := folder / f"{split}{suffix}").is_file()]
    if len(found) != 1:
        got = ", ".join(file.name for file in found) or "none"
        raise ItemsError(
            f"{folder}: must hold one {split} file "
            f"({split}.jsonl, .json, .csv, .parquet or .jsonl.gz), got {got}"
        )
    return found[0]


def _clean_file(path: Path, **cleaning: Any) -> tuple[pd.DataFrame, "Counter[str]", int]:
    """Return the usable products of a file, what was left out, and how many rows there were."""
    rows = read_products(path)  # goes when this returns: raw rows take half of the memory
    items, left_out = it.clean_products(rows, where=str(path), **cleaning)
    return items, left_out, len(rows)


def read_products(path: Path) -> pd.DataFrame:
    """Read a file of products with prices as it is; the index is the line or row from 1.

    Raises:
        ItemsError: it is missing, no file or of a type without prices, or see `readers.read_rows`.
    """
    kind = file_type(path)
    if kind not in WITH_PRICES:
        what = "a text file has no prices" if kind == ".txt" else "unknown file type"
        raise ItemsError(f"{path}: {what}, must end in {', '.join(WITH_PRICES)}")
    if not path.exists():
        raise ItemsError(f"{path}: no such file (items.files.path in params.yaml)")
    if not path.is_file():  # a pipe can be read once, and DVC has to hash what there is
        raise ItemsError(f"{path}: no file (items.files.path in params.yaml): save it as one")
    return pd.concat(list(read_tables(path, BATCH)))


def _part_splits(splits: Splits, folder: Path, on_invalid: str) -> int:
    """Drop from each split what a later one has; return how many, or raise if that is an error."""
    shared = 0
    for place, split in enumerate(it.SPLITS):
        for later in it.SPLITS[place + 1 :]:
            _check_ids(splits[split], splits[later], f"{folder}: {split} and {later}")
            both = it.shared_items(splits[split], splits[later])
            if both.any() and on_invalid == "error":
                title = splits[split]["title"][both].iloc[0]
                raise ItemsError(
                    f"{folder}: {split} and {later} share {int(both.sum())} products, the first is "
                    f"{quoted(title)}: take them out of one, or set items.files.on_invalid to drop"
                )
            splits[split] = splits[split][~both].reset_index(drop=True)
            shared += int(both.sum())
    return shared


def _check_ids(items: pd.DataFrame, other: pd.DataFrame, where: str) -> None:
    """Raise ItemsError if different products have the same id."""
    both = items.merge(other, on="id", suffixes=("", "_other"))
    keys = [both[column].map(it.text_key) for column in ("summary", "summary_other")]
    titles = [both[column].map(it.title_key) for column in ("title", "title_other")]
    both = both[(keys[0] != keys[1]) & (titles[0] != titles[1])]
    if len(both):
        first = both.iloc[0]
        raise ItemsError(
            f"{where} share {len(both)} ids of different products, the first is {first['id']} "
            f"({quoted(first['title'])}, {quoted(first['title_other'])}): make ids unique in all "
            "files or leave the column out"
        )
