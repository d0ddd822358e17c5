"""Items from listings as shops have them: cleaned, without near-duplicates, drawn by weight.

The listings are read once and in bounded memory: the usable ones go to a temporary file, and of
each stay 128 bytes to find near-duplicates by, and five numbers. Only those that are drawn come
back.
"""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pricer.errors import DISK_FULL, ItemsError, PricerError
from pricer.files import read_parquet_parts, write_parquet_parts
from pricer.params import Raw
from pricer.products import items as it
from pricer.products.file_source import WITH_PRICES
from pricer.products.listings import FIELDS, Listing, read_listing, tells_price
from pricer.products.near_duplicates import HASHES, near_repeats, signature
from pricer.products.readers import Row, file_type, rows_or_errors
from pricer.products.splits import Splits, count_splits, told

ORIGIN = "listings in the author's own files"
BROKEN = "no readable row"
BATCH = 10_000  # usable listings in memory at once
COLUMNS = ["title", "category", "price", "summary", "weight"]
MOST, LONGEST_NAME = 20, 60  # categories that the record names, and characters of a name

# meta_Appliances.jsonl.gz, raw_meta_Appliances/full-00000-of-00001.parquet
_CATEGORY_NAME = re.compile(r"(?:raw_)?meta_(\w+)")


@dataclass
class Counts:
    """What became of the listings.

    Attributes:
        read: rows.
        left_out: rows that can be no item, by reason.
        details_unreadable: listings used without their details.
        shortened: listings whose text was cut.
        price_in_text: listings whose text tells their very price.
    """

    read: int = 0
    left_out: "Counter[str]" = field(default_factory=Counter)
    details_unreadable: int = 0
    shortened: int = 0
    price_in_text: int = 0

    def add(self, listing: Listing) -> None:
        """Note what is odd about a usable listing."""
        self.details_unreadable += listing.details_unreadable
        self.shortened += listing.shortened
        self.price_in_text += tells_price(listing.text, listing.price)


@dataclass(frozen=True)
class Sketches:
    """What is known of each of n usable listings while its text is not in memory.

    Attributes:
        price: USD.
        category: its number.
        rank: of all that is in the listing: an order that does not depend on that of the rows.
        title: hash of the title's words.
        text: hash of the text.
        signature: (n, HASHES), see `near_duplicates.signature`.
    """

    price: NDArray[np.float64]
    category: NDArray[np.int64]
    rank: NDArray[np.int64]
    title: NDArray[np.int64]
    text: NDArray[np.int64]
    signature: NDArray[np.uint16]


def raw_items(
    path: Path,
    sizes: dict[str, int],
    *,
    seed: int,
    raw: Raw,
    min_price: float,
    max_price: float,
) -> tuple[Splits, dict[str, Any]]:
    """Return splits of items made of listings, and the record of what became of these.

    Args:
        path: a file of listings, or a folder with files of them, see `listings.read_listing`.
        sizes: items by split.
        seed: of what is drawn, and of the splits.
        raw: bounds, similarity and weights.
        min_price: USD.
        max_price: USD.

    Raises:
        ItemsError: a file cannot be read, or there are not enough usable listings.
        PricerError: the temporary folder's disk is full.
    """
    files, counts = listing_files(path), Counts()
    prices = {"min_price": min_price, "max_price": max_price}
    with _temporary_folder() as folder:
        spool = folder / "listings.parquet"
        known, categories = _put_aside(_usable(files, counts, raw, prices), spool)
        distinct, repeats = distinct_listings(known, raw.max_similarity)
        if len(distinct) < sum(sizes.values()):
            reasons = counts.left_out + repeats
            raise _too_few(path, sizes, len(distinct), counts.read, reasons)
        weights = sampling_weights(known.price[distinct], known.category[distinct], raw)
        uniforms = _uniforms(known.rank[distinct], seed)
        drawn = np.sort(distinct[weighted_draw(weights, uniforms, sum(sizes.values()))])
        items = _read_rows(spool, drawn)
    items, _ = it.clean_products(items, where=str(path), on_invalid="error", **prices)
    splits = it.split_items(items, sizes, seed=seed, where=str(path))
    record = count_splits(
        splits,
        counts.read,
        counts.left_out,
        repeats.total(),
        shared=0,
        unused=len(distinct) - len(drawn),
    )
    return splits, {"origin": ORIGIN} | record | {
        "raw": {
            "files": len(files),
            "usable": len(known.price),
            "details_unreadable": counts.details_unreadable,
            "shortened": counts.shortened,
            "price_in_text": counts.price_in_text,
            "repeats": dict(repeats),
            "categories": _category_counts(categories, known.category, distinct, drawn),
        }
    }


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder that vanishes; a full disk is told with where it is."""
    place = tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise PricerError(
            f"no disk space left in {place}, where usable listings wait: free some, or set TMPDIR "
            "to a folder on another disk, then run the same command again"
        ) from None


def listing_files(path: Path) -> list[Path]:
    """Return the file, or every file of listings in a folder and below it, in order.

    Raises:
        ItemsError: there is none.
    """
    if not path.is_dir():
        if not path.is_file():
            raise ItemsError(f"{path}: no such file or folder (items.files.path in params.yaml)")
        return [path]
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and file_type(file) in WITH_PRICES
    )
    if not files:
        raise ItemsError(f"{path}: holds no file that ends in {', '.join(WITH_PRICES)}")
    return files


def category_of(file: Path) -> str:
    """Return the category that a file's or its folder's name tells, as in meta_Appliances.jsonl."""
    for name in (file.name.partition(".")[0], file.parent.name):
        if match := _CATEGORY_NAME.fullmatch(name):
            return match[1]
    return ""


def distinct_listings(
    known: Sketches, similarity: float
) -> tuple[NDArray[np.int64], "Counter[str]"]:
    """Return the rows of one listing of each product, and how many others there are, by reason.

    Which one is kept depends on the listings, not on their order.
    """
    rows: NDArray[np.int64] = np.argsort(known.rank, kind="stable")
    repeats = Counter[str]()
    for reason, keys in (("title", known.title), ("text", known.text)):
        first = ~pd.Series(keys[rows]).duplicated().to_numpy()
        repeats[f"same {reason}"] = int((~first).sum())
        rows = rows[first]
    repeats["near-duplicate"] = 0
    if similarity < 1:  # 1 asks for equal texts, and the estimate may miss a word
        near = near_repeats(known.signature[rows], similarity)
        repeats["near-duplicate"] = int(near.sum())
        rows = rows[~near]
    return rows, repeats


def sampling_weights(
    prices: NDArray[np.float64], categories: NDArray[np.int64], raw: Raw
) -> NDArray[np.float64]:
    """Return price ** price_power / (listings of the category) ** category_power, n of them."""
    _, own, counts = np.unique(categories, return_inverse=True, return_counts=True)
    dearest = prices.max(initial=1.0)
    weights: NDArray[np.float64] = (prices / dearest) ** raw.price_power
    return weights / counts[own] ** raw.category_power


def weighted_draw(
    weights: NDArray[np.float64], uniforms: NDArray[np.float64], size: int
) -> NDArray[np.int64]:
    """Return `size` of n places, drawn one after another without replacement, by their weights.

    The `size` largest of uniform ** (1 / weight), see Efraimidis and Spirakis 2006, "Weighted
    random sampling with a reservoir"; logarithms keep small weights apart.

    Args:
        weights: (n,), above 0.
        uniforms: (n,), independent, above 0 and below 1.
        size: at most n.
    """
    keys = np.log(-np.log(uniforms)) - np.log(weights)
    return np.argsort(keys, kind="stable")[:size]


def _usable(
    files: list[Path], counts: Counts, raw: Raw, prices: dict[str, float]
) -> Iterator[Listing]:
    """Yield the usable listings of all files, and count the others by reason."""
    with tqdm(desc="listings", unit=" rows", disable=None) as bar:
        for file in files:
            category = category_of(file)
            for _, row in rows_or_errors(file, FIELDS):
                counts.read += 1
                bar.update()
                listing = _listing_or_reason(row, category, raw, prices)
                if isinstance(listing, str):
                    counts.left_out[listing] += 1
                else:
                    counts.add(listing)
                    yield listing


def _listing_or_reason(
    row: Row | ItemsError, category: str, raw: Raw, prices: dict[str, float]
) -> Listing | str:
    return BROKEN if isinstance(row, ItemsError) else read_listing(row, category, raw, **prices)


def _put_aside(usable: Iterator[Listing], spool: Path) -> tuple[Sketches, dict[str, int]]:
    """Write listings to a file; return what stays known of them, and the numbers of categories."""
    sketches, categories = list[Sketches](), dict[str, int]()

    def tables() -> Iterator[pd.DataFrame]:
        while (batch := list(islice(usable, BATCH))) or not sketches:  # a file of none is one too
            sketches.append(_sketch(batch, categories))
            yield pd.DataFrame(map(_columns, batch), columns=COLUMNS)

    write_parquet_parts(spool, tables())
    names = Sketches.__dataclass_fields__
    known = {name: np.concatenate([getattr(one, name) for one in sketches]) for name in names}
    return Sketches(**known), categories


def _columns(one: Listing) -> tuple[str | float, ...]:
    """Return a listing as COLUMNS; what a model reads is the text, until it is written anew."""
    return one.title, one.category, one.price, one.text, one.weight


def _sketch(batch: list[Listing], categories: dict[str, int]) -> Sketches:
    def whole_numbers(value: Callable[[Listing], int]) -> NDArray[np.int64]:
        return np.array([value(one) for one in batch], dtype=np.int64)

    signatures = [signature(one.text) for one in batch]
    return Sketches(
        price=np.array([one.price for one in batch], dtype=float),
        category=whole_numbers(lambda one: categories.setdefault(one.category, len(categories))),
        rank=whole_numbers(_rank),
        title=whole_numbers(lambda one: it.title_hash(one.title)),
        text=whole_numbers(lambda one: it.text_hash(one.text)),
        signature=np.array(signatures, dtype=np.uint16).reshape(-1, HASHES),
    )


def _rank(listing: Listing) -> int:
    digest = blake2b(repr(listing).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _uniforms(ranks: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a number above 0 and below 1 for each listing, whatever the order of rows."""
    digests = [blake2b(f"draw/{seed}/{rank}".encode(), digest_size=8).digest() for rank in ranks]
    whole = np.array([int.from_bytes(one, "big") >> 12 for one in digests], dtype=float)
    return (whole + 0.5) / 2**52


def _read_rows(spool: Path, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Return some rows of a file, in order."""
    start, parts = 0, []
    for part in read_parquet_parts(spool, COLUMNS, rows=BATCH):
        begin, end = np.searchsorted(rows, [start, start + len(part)])
        parts.append(part.iloc[rows[begin:end] - start])
        start += len(part)
    return pd.concat(parts, ignore_index=True)


def _too_few(
    path: Path, sizes: dict[str, int], distinct: int, read: int, reasons: "Counter[str]"
) -> ItemsError:
    asked = ", ".join(f"{split} {sizes[split]}" for split in it.SPLITS)
    most = f"; most fail for: {reasons.most_common(1)[0][0]}" if reasons else ""
    return ItemsError(
        f"{path}: {asked} asked for, {sum(sizes.values())} in all, but there are {distinct} usable "
        f"distinct products in {read} listings{told(reasons)}{most}: lower the split sizes, or "
        "look at items.min_price, items.max_price and items.raw"
    )


def _category_counts(
    categories: dict[str, int],
    numbers: NDArray[np.int64],
    distinct: NDArray[np.int64],
    drawn: NDArray[np.int64],
) -> dict[str, dict[str, int]]:
    """Return by category how many listings are usable and distinct, and how many are drawn.

    Those of the MOST largest; the rest stand together as "all others".
    """
    n = len(categories)
    counted = {"distinct": numbers[distinct], "drawn": numbers[drawn]}
    counts = {name: np.bincount(those, minlength=n) for name, those in counted.items()}
    groups = defaultdict[str, list[int]](list)
    names = sorted(categories, key=lambda name: (-counts["distinct"][categories[name]], name))
    for place, name in enumerate(names):
        group = (name[:LONGEST_NAME] or "no category") if place < MOST else "all others"
        groups[group].append(categories[name])
    return {
        group: {what: int(count[rows].sum()) for what, count in counts.items()}
        for group, rows in groups.items()
    }
