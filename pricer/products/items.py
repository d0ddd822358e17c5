"""Items: products with a price, cleaned, without duplicates, in disjoint splits."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from hashlib import blake2b
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pricer.errors import ItemsError, quoted
from pricer.files import read_parquet, read_parquet_parts, write_parquet
from pricer.products.readers import mended

REQUIRED_COLUMNS = ("title", "category", "price", "summary")
OPTIONAL_COLUMNS = ("id", "full", "weight", "noise_free_price")
SPLITS = ("train", "validation", "test")

OUTSIDE = "price outside min_price..max_price"  # why a product is left out
PART = 50_000  # items in memory at once, where a split is read in parts

CENT = 0.01  # USD, the least price
LONGEST_PRICE = 60  # characters, spaces that follow one another as one

# control characters but for tab and newline, bidirectional overrides
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Unicode's Default_Ignorable_Code_Point: joiners, variation selectors and others that show nothing
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# [USD | US] [$] amount [$ | USD | US$]; an amount is digits, all or none in groups of three set off
# by commas, and perhaps a point with digits after it, which may stand without any before it
_PRICE = re.compile(
    r"(?:USD?)? ?\$? ?(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)? ?(?:\$|USD|US ?\$)?", re.IGNORECASE
)
_TWO_AMOUNTS = re.compile(r"[1-9]\d{0,2}\.\d{3}")  # 1.299, which may be 1299
_WHOLE_NUMBER = re.compile(r"([+-]?\d{1,19})(?:\.0*)?")
_EXACT_FLOATS = 2**53  # from here on, whole numbers share floats


def clean_text(text: object) -> str:
    """Return `text` without control characters and outer spaces; what shows nothing is empty.

    Half a surrogate pair, which no file can hold, becomes U+FFFD.
    """
    if not isinstance(text, str):
        return ""
    text = _UNPRINTABLE.sub(" ", mended(text).replace("\r\n", "\n")).strip()
    return text if _INVISIBLE.sub("", text).strip() else ""


def parse_amount(value: object) -> float | None:
    """Return a price in USD from a number or text such as "$1,299.00", None where there is none.

    Negative and zero prices, NaN, infinities, truth values and bytes are None too.

    >>> parse_amount("USD 1,299"), parse_amount("$.99"), parse_amount("1.299,00")
    (1299.0, 0.99, None)
    """
    if isinstance(value, str):
        text = " ".join(value.split())
        match = _PRICE.fullmatch(text) if len(text) <= LONGEST_PRICE else None
        amount = (match[1] or "0") + (match[2] or "") if match else None
        if amount is None or _TWO_AMOUNTS.fullmatch(amount):
            return None
        value = Decimal(amount.replace(",", ""))
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    try:
        price = float(value)
    except (OverflowError, ValueError):  # a whole number of 400 digits; a signalling NaN
        return None
    return price if 0 < price < float("inf") else None


def parse_id(value: object) -> int | None:
    """Return an id of 64 bits from a whole number or its digits, None where there is none.

    A float from 2^53 on is none: it may stand for several ids.
    """
    match value:
        case str():
            digits = _WHOLE_NUMBER.fullmatch(value.strip())
            number = int(digits[1]) if digits else None
        case bool():
            number = None
        case Integral():
            number = int(value)
        case Decimal() if value.is_finite():
            number = int(value) if value == value.to_integral_value() else None
        case Real():
            floating = float(value)
            exact = floating.is_integer() and abs(floating) < _EXACT_FLOATS
            number = int(floating) if exact else None
        case _:
            number = None
    return number if number is not None and -(2**63) <= number < 2**63 else None


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
        id, title, category, price (USD, whole cents), summary and the optional columns that `rows`
        has, each of one type; `noise_free_price` is NaN where there is none.

    Raises:
        ItemsError: a column is missing, an id is none, or with "error" the first invalid row.
    """
    missing = [column for column in REQUIRED_COLUMNS if column not in rows]
    if missing:
        raise ItemsError(
            f"{where}: column {', '.join(missing)} missing "
            f"(has {_names(rows)}): items need {', '.join(REQUIRED_COLUMNS)}"
        )
    kept = [column for column in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if column in rows]
    items = rows[kept].copy()
    for column in ("title", "category", "summary"):
        items[column] = items[column].map(clean_text).astype("str")
    # what sums and currencies leave behind the cents is no part of a price
    prices = rows["price"].map(parse_amount).astype(float).map(lambda price: round(price, 2))
    items["price"] = prices
    for column in ("full", "weight"):
        if column in items:
            items[column] = _of_one_type(items[column])
    if "noise_free_price" in items:
        items["noise_free_price"] = items["noise_free_price"].map(parse_amount).astype(float)

    invalid = pd.Series("", index=rows.index)
    invalid[prices.isna()] = "no positive price"
    invalid[items["summary"] == ""] = "empty summary"
    invalid[items["title"] == ""] = "empty title"
    bad = invalid[invalid != ""]
    if len(bad) and on_invalid == "error":
        row = bad.index[0]
        column = bad.iloc[0].split()[-1]
        raise ItemsError(
            f"{where} row {row}: {bad.iloc[0]} (got {quoted(rows.loc[row, column])}); "
            f"{len(bad)} of {len(rows)} rows are invalid: mend them, "
            "or set items.files.on_invalid to drop"
        )
    left_out = Counter(bad)
    outside = (invalid == "") & ~prices.between(max(min_price, CENT), max_price)
    left_out[OUTSIDE] = int(outside.sum())
    items = _with_ids(items[(invalid == "") & ~outside], where)
    return items.reset_index(drop=True), +left_out


def _names(rows: pd.DataFrame) -> str:
    names = [str(name) for name in rows]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _of_one_type(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return numbers as numbers, anything else, or numbers beside it, as text; gaps stay."""
    if pd.api.types.is_numeric_dtype(values):
        return values
    there = values[values.notna()]
    try:
        if there.map(lambda value: type(value) in (int, float)).all():
            return values.astype(float)
    except OverflowError:  # a whole number of 400 digits is text too
        pass
    return there.map(_as_text).reindex(values.index).astype("str")


def _as_text(value: object) -> str:
    is_text = isinstance(value, str)
    return clean_text(value if is_text else json.dumps(value, ensure_ascii=False, default=str))


def _with_ids(items: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return `items` with a whole number id in front; where they have none, a hash of the text."""
    if "id" in items:
        given = items.pop("id")
        ids = [parse_id(value) for value in given]
        if None in ids:
            place = ids.index(None)
            raise ItemsError(
                f"{where} row {items.index[place]}: column id must hold whole numbers below 2^63 "
                f"(got {quoted(given.iloc[place])}): mend it, or leave the column out"
            )
        items.insert(0, "id", np.array(ids, dtype="int64"))
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
    words = re.findall(r"\w+", _caseless(title))
    return " ".join(sorted(set(words))) or title


def text_key(text: str) -> str:
    """Return what texts share that differ in case, spaces and what a reader cannot see alone."""
    return " ".join(_caseless(text).split())


def _caseless(text: str) -> str:
    """Return `text` in one case and one of Unicode's forms, without what shows nothing.

    See The Unicode Standard, D146, "compatibility caseless match".
    """
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", folded)


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
    """Tell which rows of `items` are in `other` too: same text, or near-identical title."""
    return items["title"].map(title_key).isin(other["title"].map(title_key)) | items["summary"].map(
        text_key
    ).isin(other["summary"].map(text_key))


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
