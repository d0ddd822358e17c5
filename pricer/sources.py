"""Where items come from: the built-in catalogue or the user's files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from pricer import items as it
from pricer.catalog import generate_products
from pricer.errors import ItemsError

Splits = dict[str, pd.DataFrame]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def catalog_items(
    sizes: dict[str, int], *, seed: int, noise: float, min_price: float, max_price: float
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of the built-in catalogue and counts of what was made.

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
    rows = pd.DataFrame(products)
    items, left_out = it.clean_products(
        rows, where="catalog", on_invalid="error", min_price=min_price, max_price=max_price
    )
    return _split(items, left_out, sizes, seed=seed, where="catalog", read=len(rows))


def file_items(
    path: Path,
    sizes: dict[str, int],
    *,
    seed: int,
    on_invalid: str,
    min_price: float,
    max_price: float,
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of the user's products and counts of what was read and left out.

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
        rows = read_products(path)
        items, left_out = it.clean_products(rows, where=str(path), **cleaning)
        return _split(items, left_out, sizes, seed=seed, where=str(path), read=len(rows))

    splits: Splits = {}
    read, left_out, duplicates = 0, Counter[str](), 0
    for split in it.SPLITS:
        file = _split_file(path, split)
        rows = read_products(file)
        items, dropped = it.clean_products(rows, where=str(file), **cleaning)
        splits[split] = it.drop_duplicates(items)
        read += len(rows)
        left_out += dropped
        duplicates += len(items) - len(splits[split])
    shared = _part_splits(splits, path, on_invalid)
    for split, items in splits.items():
        if items.empty:
            raise ItemsError(f"{_split_file(path, split)}: no usable products left")
    return splits, _counts(splits, read, left_out, duplicates, shared=shared, unused=0)


def read_products(path: Path) -> pd.DataFrame:
    """Read a JSONL, JSON, CSV or Parquet file as it is; the index is the line or row from 1.

    Raises:
        ItemsError: the file is missing, empty, cut off, not UTF-8, or not what its name says.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ItemsError(f"{path}: unknown file type, must end in {', '.join(SUFFIXES)}")
    if not path.exists():  # a pipe is as good as a file
        raise ItemsError(f"{path}: no such file (items.files.path in params.yaml)")
    try:
        rows = _read(path)
    except UnicodeDecodeError as error:
        raise ItemsError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ItemsError(
            f"{path} line {error.lineno}: not valid JSON ({error.msg}); is the file complete?"
        ) from None
    except (ValueError, OSError) as error:  # pandas' and Arrow's own errors are ValueErrors
        if isinstance(error, OSError) and error.filename:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ItemsError(
            f"{path}: not a readable {path.suffix[1:]} file ({reason}); is it complete?"
        ) from None
    if rows.empty:
        raise ItemsError(f"{path}: no products in it")
    return rows


def _read(path: Path) -> pd.DataFrame:
    match path.suffix.lower():
        case ".parquet":
            rows = pd.read_parquet(path)
        case ".csv":
            try:
                rows = pd.read_csv(path, dtype=object, keep_default_na=False, encoding="utf-8-sig")
            except pd.errors.EmptyDataError:
                rows = pd.DataFrame()
        case ".json":
            rows = _table(json.loads(path.read_text(encoding="utf-8-sig") or "[]"))
        case _:
            rows = _read_jsonl(path)
            return rows
    rows.index = pd.RangeIndex(1, len(rows) + 1)
    return rows


def _read_jsonl(path: Path) -> pd.DataFrame:
    records: dict[int, Any] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    records[number] = json.loads(line)
                except json.JSONDecodeError as error:
                    error.lineno = number
                    raise
    rows = _table(list(records.values()))
    rows.index = pd.Index(list(records))
    return rows


def _table(records: Any) -> pd.DataFrame:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("must hold objects with the item columns")
    return pd.DataFrame.from_records(records).astype(object)


def _split_file(folder: Path, split: str) -> Path:
    found = [file for suffix in SUFFIXES if (file := folder / f"{split}{suffix}").is_file()]
    if len(found) != 1:
        got = ", ".join(file.name for file in found) or "none"
        raise ItemsError(
            f"{folder}: must hold one {split} file "
            f"({split}.jsonl, .json, .csv or .parquet), got {got}"
        )
    return found[0]


def _part_splits(splits: Splits, folder: Path, on_invalid: str) -> int:
    """Drop from each split what a later one has; return how many, or raise if that is an error."""
    shared = 0
    for place, split in enumerate(it.SPLITS):
        for later in it.SPLITS[place + 1 :]:
            both = it.shared_items(splits[split], splits[later])
            if both.any() and on_invalid == "error":
                title = splits[split]["title"][both].iloc[0]
                raise ItemsError(
                    f"{folder}: {split} and {later} share {int(both.sum())} products, the first is "
                    f"{title[:80]!r}: take them out of one, or set items.files.on_invalid to drop"
                )
            splits[split] = splits[split][~both].reset_index(drop=True)
            shared += int(both.sum())
    return shared


def _split(
    items: pd.DataFrame,
    left_out: "Counter[str]",
    sizes: dict[str, int],
    *,
    seed: int,
    where: str,
    read: int,
) -> tuple[Splits, dict[str, Any]]:
    distinct = it.drop_duplicates(items)
    splits = it.split_items(distinct, sizes, seed=seed, where=where)
    return splits, _counts(
        splits,
        read,
        left_out,
        len(items) - len(distinct),
        shared=0,
        unused=len(distinct) - sum(sizes.values()),
    )


def _counts(
    splits: Splits,
    read: int,
    left_out: "Counter[str]",
    duplicates: int,
    *,
    shared: int,
    unused: int,
) -> dict[str, Any]:
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
