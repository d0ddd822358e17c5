"""Where items come from: the built-in catalogue, the user's files or the Hugging Face Hub."""

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pricer.errors import ItemsError
from pricer.hub import card_data, checked_sha256, download, file_names, resolve
from pricer.products import items as it
from pricer.products.catalog import generate_products
from pricer.products.prompts import parse_prompt

Splits = dict[str, pd.DataFrame]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BATCH = 50_000  # rows cleaned at once: the rest waits as compact columns

# how data sets on the Hub call the splits
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
_TITLE = re.compile(r"^Title:[ \t]*(\S.*)$", re.MULTILINE)
_CATEGORY = re.compile(r"^Category:[ \t]*(\S.*)$", re.MULTILINE)


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
    return _split(items, left_out, sizes, seed=seed, where="catalog", read=read)


def _batches(products: Iterable[Any]) -> Iterator[list[Any]]:
    products = iter(products)
    while batch := list(islice(products, BATCH)):
        yield batch


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


def hub_items(
    dataset: str,
    revision: str,
    config: str | None,
    sizes: dict[str, int | None],
    *,
    min_price: float,
    max_price: float,
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of a data set on the Hub, at the commit that its revision stands for now.

    Rows are taken in their order. Those without a usable text or price are counted and left out,
    as are those whose description or near-identical title a later split has, of train, validation,
    test. A data set of prompts alone gives items too: see `_items_in_prompts`.

    Args:
        dataset: OWNER/NAME.
        revision: a branch, a tag or a commit.
        config: of a data set that has several.
        sizes: items by split; None takes all.
        min_price: USD.
        max_price: USD.

    Raises:
        HubError: what the Hub refuses or cannot deliver.
        ItemsError: the data set has not the files, splits, columns or rows that are needed.
    """
    commit = resolve(dataset, "dataset", revision)
    files = _parquet_files(dataset, commit, config)
    splits: Splits = {}
    left_out, counts = Counter[str](), Counter[str]()
    for split in reversed(it.SPLITS):
        items, dropped, counted = _first_usable(
            _hub_rows(files[split], dataset, split),
            sizes[split],
            texts={key for later in splits.values() for key in later["summary"].map(it.text_hash)},
            titles={key for later in splits.values() for key in later["title"].map(it.title_hash)},
            where=f"{dataset} {split}",
            min_price=min_price,
            max_price=max_price,
        )
        if len(items) < (sizes[split] or 1):
            raise ItemsError(
                f"{dataset}: {sizes[split] or 'some'} {split} products asked for, but {len(items)} "
                f"of {counted['read']} rows are usable and distinct (left out: "
                f"{', '.join(f'{n} {reason}' for reason, n in (dropped + counted).items())}): "
                f"lower items.hub.{split}_size, or look at items.min_price and items.max_price"
            )
        splits[split] = items
        left_out += dropped
        counts += counted
    splits = {split: splits[split] for split in it.SPLITS}
    pinned = {"dataset": dataset, "config": config, "revision": revision, "commit": commit}
    return splits, pinned | _counts(
        splits,
        counts["read"],
        left_out,
        counts["duplicates"],
        shared=counts["shared"],
        unused=counts["unused"],
    )


def _parquet_files(dataset: str, commit: str, config: str | None) -> dict[str, list[Path]]:
    """Download and return the Parquet files of each split, as the data set's card declares them."""
    # the library tells which file is of which split from the card and from file names alone
    from datasets import load_dataset_builder

    folder = download(dataset, "dataset", commit, ["README.md"])
    with tempfile.TemporaryDirectory() as temporary:
        outline = Path(temporary).resolve() / "dataset"
        for name in file_names(dataset, "dataset", commit, folder):
            if name.endswith(".parquet"):
                (outline / name).parent.mkdir(parents=True, exist_ok=True)
                (outline / name).touch()
        if not outline.is_dir():
            raise ItemsError(
                f"{dataset}: no Parquet files at commit {commit[:7]}: for data sets in other forms "
                "the Hub makes some, set items.hub.revision to refs/convert/parquet"
            )
        if card_data(folder):
            shutil.copyfile(folder / "README.md", outline / "README.md")
        try:
            builder = load_dataset_builder(str(outline), name=config, cache_dir=temporary)
        except (ValueError, FileNotFoundError) as error:
            reason = " ".join(str(error).partition("Example of usage")[0].split())
            raise ItemsError(
                f"{dataset}: config {config} (items.hub.config): {reason}".replace(temporary, "")
            ) from None
        found = {
            str(name): [str(Path(file).relative_to(outline)) for file in paths]
            for name, paths in builder.config.data_files.items()
        }
    names: dict[str, list[str]] = {}
    for split, allowed in SPLIT_NAMES.items():
        have = [name for name in allowed if name in found]
        if not have:
            raise ItemsError(
                f"{dataset}: no {split} split (has {', '.join(found)}; {' or '.join(allowed)} "
                "would do)"
            )
        names[split] = found[have[0]]
    wanted = sorted(chain.from_iterable(names.values()))
    folder = download(dataset, "dataset", commit, wanted)
    for name in wanted:
        checked_sha256(folder / name)
    return {split: [folder / name for name in own] for split, own in names.items()}


def _hub_rows(files: list[Path], dataset: str, split: str) -> Iterator[pd.DataFrame]:
    """Yield the rows of Parquet files in batches, with the item columns.

    Raises:
        ItemsError: a file is not readable, or has neither the item columns nor prompts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            table = pq.ParquetFile(file)
            names = set(table.schema_arrow.names)
            prompts = not names >= set(it.REQUIRED_COLUMNS)
            columns = ["prompt", "completion"] if prompts else list(it.REQUIRED_COLUMNS)
            if not names >= set(columns):
                raise ItemsError(
                    f"{dataset} {split}: has columns {', '.join(sorted(names))}: items need "
                    f"{', '.join(it.REQUIRED_COLUMNS)}, or prompt and completion"
                )
            bar = tqdm(total=table.metadata.num_rows, desc=split, unit=" rows", disable=None)
            with table, bar:
                for batch in table.iter_batches(BATCH, columns=columns):
                    rows = batch.to_pandas()
                    yield _items_in_prompts(rows) if prompts else rows
                    bar.update(len(rows))
        except pa.ArrowException as error:
            reason = str(error).strip().splitlines()[0]
            raise ItemsError(f"{dataset} {split}: {file.name} is not readable ({reason})") from None


def _items_in_prompts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the items that prompts and completions were made of, as far as they tell.

    The summary is what stands between the question and the prefix, cut as it was; the title and
    the category are its lines `Title: ...` and `Category: ...`, else its first line and "unknown".
    """
    summaries = [parse_prompt(it.clean_text(prompt)) for prompt in rows["prompt"]]
    titles = [_TITLE.search(text) for text in summaries]
    categories = [_CATEGORY.search(text) for text in summaries]
    return pd.DataFrame(
        {
            "title": [
                found[1] if found else text.partition("\n")[0] or "unknown"
                for found, text in zip(titles, summaries, strict=True)
            ],
            "category": [found[1] if found else "unknown" for found in categories],
            "price": rows["completion"],
            "summary": summaries,
        }
    )


def _first_usable(
    frames: Iterable[pd.DataFrame],
    size: int | None,
    *,
    texts: set[int],
    titles: set[int],
    where: str,
    min_price: float,
    max_price: float,
) -> tuple[pd.DataFrame, "Counter[str]", "Counter[str]"]:
    """Return the first usable distinct items, and counts of what was left out and of the rest.

    Args:
        frames: raw rows in batches, read no further than needed.
        size: how many; None takes all.
        texts: hashes of the descriptions of later splits.
        titles: hashes of their titles.
        where: for messages.
        min_price: USD.
        max_price: USD.
    """
    parts: list[pd.DataFrame] = []
    left_out, counts = Counter[str](), Counter[str]()
    own: set[int] = set()
    for rows in frames:
        items, dropped = it.clean_products(
            rows, where=where, on_invalid="drop", min_price=min_price, max_price=max_price
        )
        keys = items["summary"].map(it.text_hash)
        shared = keys.isin(texts) | items["title"].map(it.title_hash).isin(titles)
        repeated = ~shared & (keys.duplicated() | keys.isin(own))
        parts.append(items[~shared & ~repeated])
        own.update(keys)
        left_out += dropped
        counts.update(read=len(rows), shared=int(shared.sum()), duplicates=int(repeated.sum()))
        if size is not None and sum(map(len, parts)) >= size:
            break
    items = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"id": []})
    counts["unused"] = len(items) - (len(items) if size is None else min(size, len(items)))
    return items.head(len(items) if size is None else size), left_out, counts


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
