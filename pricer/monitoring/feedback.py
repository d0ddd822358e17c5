"""Back from what came of estimates: a serving record with new intervals, products to train on."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pricer.errors import PricerError
from pricer.escaping import json_line
from pricer.files import read_parquet, writing
from pricer.params import MIN_CALIBRATION
from pricer.prices.distribution import conformal_offset, smallest_calibration
from pricer.products.items import SPLITS, clean_products, text_key, title_key
from pricer.workspace import Workspace

if TYPE_CHECKING:
    from pricer.prices.record import Calibration
    from pricer.serving.log import Columns

NEWEST = 1_000  # outcomes that intervals are calibrated on
LONGEST_TITLE = 200
TENS = range(10, 100, 10)  # levels, percent


def calibration_of(
    outcomes: Iterable["Columns"], before: "Calibration | None" = None
) -> "Calibration":
    """Return the calibration that the newest outcomes give.

    The log keeps every twentieth quantile: offsets are measured for 10%, 20% ... 90%, and
    interpolated for the levels between.

    Args:
        outcomes: columns of the log, in the order that outcomes came.
        before: what they were estimated with: medians stay where it puts them.

    Raises:
        PricerError: there are fewer than MIN_CALIBRATION.
    """
    from pricer.prices.record import Calibration
    from pricer.serving.log import QUANTILES

    known = [
        (price, quantiles)
        for part in outcomes
        for price, quantiles, fallback in zip(
            part["price_usd"], part["quantiles_usd"], part["fallback"], strict=True
        )
        if fallback is None and quantiles
    ][-NEWEST:]
    if len(known) < MIN_CALIBRATION:
        raise PricerError(
            f"{len(known)} outcomes of the model's own estimates in the period, --recalibrate "
            f"needs {MIN_CALIBRATION} or more: take a longer one"
        )
    prices = np.array([price for price, _ in known], dtype=float)
    of = dict(zip(QUANTILES, np.array([those for _, those in known], dtype=float).T, strict=True))
    tens = [level for level in TENS if smallest_calibration(level / 100) <= len(prices)]
    measured = [
        conformal_offset(prices, of[50 - level // 2], of[50 + level // 2], level / 100)
        for level in tens
    ]
    between = range(tens[0], tens[-1] + 1)
    offsets = dict(zip(map(str, between), np.interp(between, tens, measured).tolist(), strict=True))
    return Calibration(
        method="conformalized quantile regression on log(1 + price), newest outcomes",
        n=len(prices),
        offsets=offsets,
        **(before.model_dump(include={"intercept", "slope"}) if before else {}),
    )


def next_record(record: Path) -> Path:
    """Return the first free name after a serving record: tuned-2.json, tuned-3.json ..."""
    names = (record.with_name(f"{record.stem}-{number}.json") for number in itertools.count(2))
    return next(name for name in names if not name.exists())


def items_of(outcomes: Iterable["Columns"], root: Workspace) -> tuple[pd.DataFrame, Counter[str]]:
    """Return logged products with what they sold for, as items, and what was left out and why.

    Left out is what a split of the pipeline has already: the same text, or a title of the same
    words. What was judged is not trained on, and what was trained on is not repeated. Of a product
    that sold more than once the newest price counts.

    Args:
        outcomes: columns of the log with all descriptions, in the order that outcomes came.
        root: the project whose splits they must not repeat.

    Raises:
        PricerError: the log has no descriptions.
    """
    columns = ("description", "category", "price_usd")
    rows = pd.DataFrame(
        [row for part in outcomes for row in zip(*(part[name] for name in columns), strict=True)],
        columns=["summary", "category", "price"],
        dtype=object,
    )
    described = rows["summary"].notna()
    if len(rows) and not described.any():
        raise PricerError(
            "the log holds no descriptions, only their hashes: --export-items needs a service that "
            "was started with --descriptions stored"
        )
    left_out = Counter({"without a description": int((~described).sum())})
    rows = rows[described]
    rows["title"] = [_title(text) for text in rows["summary"]]
    rows["category"] = rows["category"].fillna("unknown")
    again = rows["summary"].map(text_key).duplicated(keep="last")
    left_out["sold again later"] = int(again.sum())
    items, unusable = clean_products(
        rows[~again],
        where="the log",
        on_invalid="drop",
        min_price=0,
        max_price=float("inf"),
    )
    texts, titles = _known(root)
    repeated = ~items["summary"].map(lambda text: texts.isdisjoint(_text_keys(text)))
    repeated |= items["title"].map(title_key).isin(titles)
    left_out["in the pipeline's splits"] = int(repeated.sum())
    wanted = ["title", "category", "price", "summary"]
    return items.loc[~repeated, wanted].reset_index(drop=True), +(left_out + unusable)


def _title(text: str) -> str:
    """Return the title that a description tells, as the service and the pipeline write it.

    Else what it says after `Description:`, else its first line.
    """
    lines = text.strip().splitlines() + _description(text).splitlines()
    for name in ("Title:", "Description:"):
        told = [line.removeprefix(name).strip() for line in lines if line.startswith(name)]
        if any(told):
            return told[0][:LONGEST_TITLE]
    return lines[0][:LONGEST_TITLE] if lines else ""


def _description(text: str) -> str:
    """Return what a text says after `Description:`, which may be a whole text with labels itself.

    Who asks may tell title and category apart from the description, or not at all.
    """
    return text.partition("Description:")[2].strip()


def _text_keys(text: str) -> set[str]:
    """Return the keys of a text and of its description."""
    return {text_key(told) for told in (text, _description(text)) if told.strip()}


def _known(root: Workspace) -> tuple[set[str], set[str]]:
    """Return the keys of the texts and of the titles of all splits."""
    texts: set[str] = set()
    titles: set[str] = set()
    for split in SPLITS:
        file = root.items / f"{split}.parquet"
        if file.exists():
            items = read_parquet(file, ["title", "summary"])
            texts.update(*items["summary"].map(_text_keys))
            titles |= set(items["title"].map(title_key))
    return texts, titles


def write_items(items: pd.DataFrame, file: Path) -> None:
    """Write items as JSON lines, as `items.source: files` reads them."""
    with writing(file) as partial, partial.open("w", encoding="utf-8") as stream:
        for row in items.to_dict(orient="records"):
            stream.write(json_line(row) + "\n")
