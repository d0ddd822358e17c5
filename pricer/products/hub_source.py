"""Items in a data set on the Hugging Face Hub."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from pricer.errors import ItemsError, first_line, quoted
from pricer.hub import (
    card_data,
    checked_sha256,
    download,
    file_names,
    resolve,
    revision_notice,
)
from pricer.products import items as it
from pricer.products.prompts import parse_prompt
from pricer.products.readers import parquet_tables
from pricer.products.splits import BATCH, Splits, count_splits, told

# how data sets on the Hub call the splits
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
_TITLE = re.compile(r"^Title:[ \t]*(\S.*)$", re.MULTILINE)
_CATEGORY = re.compile(r"^Category:[ \t]*(\S.*)$", re.MULTILINE)
# far above what any card has; a long row of wildcards takes for ever to match
LONGEST_PATTERN, MOST_WILDCARDS = 300, 10


def _inside(pattern: str) -> str:
    """Return a pattern of file names if nothing but a repository's own files can match it."""
    leads_out = pattern.startswith(("/", "~")) or ".." in pattern.split("/")
    strange = ":" in pattern or "\\" in pattern or not pattern.isprintable()
    if leads_out or strange:
        raise ItemsError(f"{quoted(pattern)} leads out of the repository: nothing of it is read")
    if len(pattern) > LONGEST_PATTERN or pattern.count("*") > MOST_WILDCARDS:
        raise ItemsError(f"{quoted(pattern)} is too long, or has too many wildcards")
    return pattern


Pattern = Annotated[str, AfterValidator(_inside)]


class _SplitFiles(BaseModel):
    model_config = ConfigDict(strict=True)

    split: str
    path: Pattern | list[Pattern]


class _Config(BaseModel):
    """What a card says of the files of one config; the rest of it is not read."""

    model_config = ConfigDict(strict=True)

    config_name: str
    data_files: Pattern | list[Pattern] | list[_SplitFiles] | None = None
    data_dir: Pattern | None = None
    default: bool | None = None


class _Card(BaseModel):
    configs: list[_Config] = []


def hub_items(
    dataset: str,
    revision: str,
    config: str | None,
    sizes: dict[str, int | None],
    *,
    min_price: float,
    max_price: float,
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of a data set at the commit that its revision stands for now, and the record.

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
            dropped += Counter({why: counted[why] for why in ("shared", "duplicates")})
            raise ItemsError(
                f"{dataset}: {sizes[split] or 'some'} {split} products asked for, but {len(items)} "
                f"of {counted['read']} rows are usable and distinct{told(dropped)}: "
                f"lower items.hub.{split}_size, or look at items.min_price and items.max_price"
            )
        splits[split] = items
        left_out += dropped
        counts += counted
    splits = {split: splits[split] for split in it.SPLITS}
    pinned = {
        "origin": f"`{dataset}` at commit `{commit}` on the Hugging Face Hub",
        "dataset": dataset,
        "config": config,
        "revision": revision,
        "commit": commit,
    }
    pinned |= revision_notice(dataset, "dataset", revision, commit)
    return splits, pinned | count_splits(
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
        (outline / "README.md").write_text(_checked_card(folder, dataset), encoding="utf-8")
        try:
            builder = load_dataset_builder(str(outline), name=config, cache_dir=temporary)
        except (ValueError, FileNotFoundError, re.error) as error:
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


def _checked_card(folder: Path, dataset: str) -> str:
    """Return a card with what a data set's own says of its files, for the library to read.

    In a pattern, it would follow any address and any path.

    Raises:
        ItemsError: a pattern leads out of the repository, or the card is none.
    """
    try:
        card = _Card.model_validate(card_data(folder))
    except ItemsError as error:
        raise ItemsError(f"{dataset}: data_files in its card: {error}") from None
    except ValidationError:
        raise ItemsError(
            f"{dataset}: configs in its card (README.md) are not of the form that the Hub documents"
        ) from None
    return f"---\n{json.dumps(card.model_dump(exclude_none=True))}\n---\n"


def _hub_rows(files: list[Path], dataset: str, split: str) -> Iterator[pd.DataFrame]:
    """Yield the rows of Parquet files in batches, with the item columns.

    Raises:
        ItemsError: a file is not readable, or has neither the item columns nor prompts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True)
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
                where = f"{dataset} {split} {file.name}"
                for rows in parquet_tables(table, where, BATCH, columns):
                    yield _items_in_prompts(rows) if prompts else rows
                    bar.update(len(rows))
        except (pa.ArrowException, ValueError, OSError) as error:
            reason = first_line(error)
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
