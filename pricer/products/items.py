"""Items: products with a price, cleaned, without duplicates, in disjoint splits."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from pricer.errors import ItemsError
from pricer.files import read_parquet, read_parquet_parts, write_parquet

REQUIRED_COLUMNS = ("title", "category", "price", "summary")
OPTIONAL_COLUMNS = ("id", "full", "weight", "noise_free_price")
SPLITS = ("train", "validation", "test")

PART = 50_000  # items in memory at once, where a split is read in parts

# control characters but for tab and newline, bidirectional overrides, lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PRICE = re.compile(r"(?:US)?\$?\s*(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:\s*USD)?", re.IGNORECASE)


def clean_text(text: object) -> str:
    """Return `text` without control characters and outer spaces; what is no text is empty."""
    if not isinstance(text, str):
        return ""
    return _UNPRINTABLE.sub(" ", text.replace("\r\n", "\n")).strip()


def parse_amount(value: object) -> float | None:
    """Return a price in USD from a number or text such as "$1,299.00", None where there is none.

    Negative and zero prices, NaN, infinities and truth values are None too.
    """
    if isinstance(value, str):
        match = _PRICE.fullmatch(value.strip())
        if not match:
            return None
        value = match[1].replace(",", "") + (match[2] or "")
    elif isinstance(value, bool):
        return None
    try:
        price = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return price if 0 < price < float("inf") else None


def clean_products(
    rows: pd.DataFrame, *, where: str, on_invalid: str, min_price: float, max_price: float
) -> tuple[pd.DataFrame, Counter[str]]:
    """Return the usable products of raw `rows` and how many were left out for what reason.

    Args:
        rows: the item columns as they were read, in any type; the index names the row in `where`.
        where: the file or data set, for messages.
        on_invalid: "error", or "drop" to count and leave out rows without usable text or price.
        min_price: USD, products below are counted and left out.
        max_price: USD, products above are counted and left out.

    Returns:
        id, title, category, price (USD), summary and the optional columns that `rows` has.

    Raises:
        ItemsError: a column is missing, or with "error" the first invalid row.
    """
    missing = [column for column in REQUIRED_COLUMNS if column not in rows]
    if missing:
        raise ItemsError(
            f"{where}: column {', '.join(missing)} missing "
            f"(has {', '.join(map(str, rows)) or 'none'}): items need {', '.join(REQUIRED_COLUMNS)}"
        )
    kept = [column for column in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if column in rows]
    items = rows[kept].copy()
    for column in ("title", "category", "summary"):
        items[column] = items[column].map(clean_text).astype("str")
    prices = rows["price"].map(parse_amount).astype(float)
    items["price"] = prices

    invalid = pd.Series("", index=rows.index)
    invalid[prices.isna()] = "no positive price"
    invalid[items["summary"] == ""] = "empty summary"
    invalid[items["title"] == ""] = "empty title"
    bad = invalid[invalid != ""]
    if len(bad) and on_invalid == "error":
        row = bad.index[0]
        column = bad.iloc[0].split()[-1]
        raise ItemsError(
            f"{where} row {row}: {bad.iloc[0]} (got {_short(rows.loc[row, column])}); "
            f"{len(bad)} of {len(rows)} rows are invalid: mend them, "
            "or set items.files.on_invalid to drop"
        )
    left_out = Counter(bad)
    outside = (invalid == "") & ~prices.between(min_price, max_price)
    left_out["price outside min_price..max_price"] = int(outside.sum())
    items = items[(invalid == "") & ~outside].reset_index(drop=True)
    return _with_ids(items, where), +left_out


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _with_ids(items: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return `items` with a whole number id in front; where they have none, a hash of the text."""
    if "id" in items:
        ids = pd.to_numeric(items.pop("id"), errors="coerce")
        if ids.isna().any() or (ids % 1 != 0).any():
            raise ItemsError(f"{where}: column id must hold whole numbers")
        items.insert(0, "id", ids.astype("int64"))
        repeated = items["id"][items["id"].duplicated()]
        if len(repeated):
            raise ItemsError(
                f"{where}: id {repeated.iloc[0]} occurs more than once ({len(repeated)} repeated): "
                "make ids unique or leave the column out"
            )
    else:
        texts = items["title"] + "\0" + items["summary"]
        # 53 bits stay exact wherever JSON is read
        items.insert(0, "id", texts.map(lambda text: _hash(text) >> 11).astype("int64"))
    return items


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def title_key(title: str) -> str:
    """Return what near-identical titles share: their words, whatever order, case, punctuation."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", title).casefold())
    return " ".join(sorted(set(words))) or title


def text_key(text: str) -> str:
    """Return what texts share that differ in case and spaces alone."""
    return " ".join(text.casefold().split())


def title_hash(title: str) -> int:
    """Return 63 bits that stand for `title_key`: a million of them take little memory."""
    return _hash(title_key(title)) >> 1


def text_hash(text: str) -> int:
    """Return 63 bits that stand for `text_key`."""
    return _hash(text_key(text)) >> 1


def drop_duplicates(items: pd.DataFrame) -> pd.DataFrame:
    """Return one item for each summary, the same one whatever the order of rows."""
    items = items.sort_values(["id", "price"], kind="stable")
    return items[~items["summary"].map(text_key).duplicated()].reset_index(drop=True)


def split_items(
    items: pd.DataFrame, sizes: dict[str, int], *, seed: int, where: str
) -> dict[str, pd.DataFrame]:
    """Draw disjoint splits of exactly `sizes` from `items`, whatever the order of rows.

    Items with near-identical titles go to the same split; what no split has room for is left.

    Raises:
        ItemsError: there are not enough items.
    """
    keys = items["title"].map(title_key)
    rank = keys.map(lambda key: _hash(f"{seed}/{key}"))
    order = pd.DataFrame({"rank": rank, "id": items["id"]}).sort_values(["rank", "id"]).index
    group_sizes = keys.value_counts().to_dict()

    room = {split: sizes[split] for split in ("test", "validation", "train")}
    rows: dict[str, list[int]] = {split: [] for split in room}
    place: dict[str, str | None] = {}
    for row, key in zip(order, keys[order], strict=True):
        if key not in place:
            size = group_sizes[key]
            place[key] = next((split for split, left in room.items() if size <= left), None)
            if (split := place[key]) is not None:
                room[split] -= size
        if (split := place[key]) is not None:
            rows[split].append(row)
    if any(room.values()):
        asked = ", ".join(f"{split} {sizes[split]}" for split in SPLITS)
        raise ItemsError(
            f"{where}: {asked} asked for, {sum(sizes.values())} in all, but there are "
            f"{len(items)} usable distinct products (near-identical titles stay together): "
            "lower the split sizes"
        )
    return {split: items.loc[rows[split]].reset_index(drop=True) for split in SPLITS}


def shared_items(items: pd.DataFrame, other: pd.DataFrame) -> "pd.Series[bool]":
    """Tell which rows of `items` are in `other` too: same id or text, or near-identical title."""
    return (
        items["id"].isin(other["id"])
        | items["title"].map(title_key).isin(other["title"].map(title_key))
        | items["summary"].map(text_key).isin(other["summary"].map(text_key))
    )


def near_identical_titles(items: pd.DataFrame) -> int:
    """Return how many items share their title's words with another."""
    return int(items["title"].map(title_key).duplicated(keep=False).sum())


def write_items(folder: Path, splits: dict[str, pd.DataFrame]) -> None:
    """Write one Parquet file a split."""
    for split in SPLITS:
        write_parquet(folder / f"{split}.parquet", splits[split])


def read_items(folder: Path, split: str) -> pd.DataFrame:
    """Read the items of one split."""
    return read_parquet(folder / f"{split}.parquet")


def read_item_parts(folder: Path, split: str, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Yield some columns of the items of one split, PART rows at a time."""
    return read_parquet_parts(folder / f"{split}.parquet", columns, rows=PART)
