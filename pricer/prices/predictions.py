"""The predictions table: made, described and read here, without torch."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from pricer.errors import ItemsError, PricerError, quoted
from pricer.files import read_parquet
from pricer.prices.distribution import (
    ESTIMATES,
    PriceDistributions,
    calibrated,
    crps,
    expected_error,
    interval,
    pit,
    quantile,
    smallest_calibration,
)

QUANTILES = (5, 10, 25, 50, 75, 90, 95)  # percent
INTERVALS = (50, 80, 90)  # percent

# in the order of the table
COLUMNS = {
    "id": "the product",
    "price": "what it costs, USD",
    "estimate_usd": "the estimate that `predict.point` asks for, USD",
    "greedy_text": "what plain decoding says",
    "greedy": "the number in it, USD; missing where it holds none",
    "expected_error_usd": "mean absolute error that the distribution expects of the estimate, USD",
    "price_mass": "probability that a price comes next, of what was looked at",
    "dropped_mass": "probability whose last digit was not read",
    "median": "of the distribution, USD: minimises the expected absolute error",
    "mean": "of the distribution, USD: minimises the expected squared error",
    "mode": "likeliest price, USD",
    **{f"q{level:02}": f"{level}% quantile, USD" for level in QUANTILES},
    **{
        f"{kind}{end}_{level}": f"{name} end of the {how} {level}% interval, USD"
        for level in INTERVALS
        for kind, how in (("raw_", "model's own"), ("", "calibrated"))
        for end, name in (("low", "lower"), ("high", "upper"))
    },
    "crps": "continuous ranked probability score, USD",
    "pit": "probability integral transform",
}
NEEDED = ("id", "price", "estimate_usd")  # of a table that is to be judged
LARGEST = 1e100  # squares of what is larger, and their sums, leave the range of floats
PROBABILITIES = ("price_mass", "dropped_mass", "pit")
MAY_BE_MISSING = ("estimate_usd", "greedy", "expected_error_usd")  # where no number was said
NUMBERS = {int, float}  # of Python, which pandas makes of its own: no truth values

_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")


def parse_price(text: str) -> float | None:
    r"""Return the first number in generated text as USD, None where there is none.

    The reference recipe's rule: `$` and `,` are dropped, then the first match of
    `[-+]?\d*\.\d+|\d+`.
    """
    match = _NUMBER.search(text.replace("$", "").replace(",", ""))
    return float(match[0]) if match else None


def make_predictions(
    products: pd.DataFrame, said: PriceDistributions, offsets: dict[str, float], *, kind: str
) -> pd.DataFrame:
    """Return the predictions table: what `COLUMNS` describes, a row for each product.

    Args:
        products: id and price (USD).
        said: of these products; without greedy texts, these are missing in the table.
        offsets: from `calibration_offsets`, for the intervals 50, 80 and 90 at least.
        kind: of the estimate that is judged, one of `KINDS`.

    Raises:
        PricerError: there were too few products to calibrate an interval on.
    """
    probabilities = said.probabilities
    columns = {name: estimate(probabilities) for name, estimate in ESTIMATES.items()}
    texts: list[str | None] = [*said.greedy_texts] or [None] * len(products)
    numbers = [None if text is None else parse_price(text) for text in texts]
    columns["greedy"] = np.array(numbers, dtype=float)
    columns |= {f"q{level:02}": quantile(probabilities, level / 100) for level in QUANTILES}
    for level in INTERVALS:
        if str(level) not in offsets:
            raise PricerError(
                f"an interval of {level}% needs at least {smallest_calibration(level / 100)} "
                "products to be calibrated on: raise predict.calibration_size"
            )
        low, high = interval(probabilities, level / 100)
        columns[f"raw_low_{level}"], columns[f"raw_high_{level}"] = low, high
        columns[f"low_{level}"], columns[f"high_{level}"] = calibrated(
            low, high, offsets[str(level)]
        )
    table = products[["id", "price"]].reset_index(drop=True)
    return table.assign(
        estimate_usd=columns[kind],
        greedy_text=pd.Series(texts, dtype=object),
        expected_error_usd=expected_error(probabilities, columns[kind]),
        price_mass=said.price_mass,
        dropped_mass=said.dropped_mass,
        crps=crps(table["price"], probabilities),
        pit=pit(table["price"], probabilities),
        **columns,
    )[list(COLUMNS)]


def read_predictions(source: Path | BinaryIO, name: str) -> pd.DataFrame:
    """Read a predictions table to be judged.

    Args:
        source: a Parquet file of this table, or of id, price and estimate_usd alone.
        name: what an error calls it.

    Raises:
        PricerError: it is no Parquet file, or damaged.
        ItemsError: it is not one of the predictions of one predictor, has a product twice, or
            holds what is no number where one belongs.
    """
    return no_number_is_zero(_read(source, name, NEEDED, COLUMNS))


def read_baselines(source: Path | BinaryIO, name: str) -> pd.DataFrame:
    """Read the baselines' estimates: id, price, and a column (USD) for each.

    Raises:
        PricerError: see `read_predictions`.
    """
    return _read(source, name, ("id", "price"), None)


def _read(
    source: Path | BinaryIO, name: str, needed: Iterable[str], numbers: Iterable[str] | None
) -> pd.DataFrame:
    """Read a table whose columns `numbers`, as far as it has them, or all, hold numbers."""
    table = read_parquet(source, name=name)
    missing = [column for column in needed if column not in table]
    if missing:
        raise ItemsError(
            f"{name}: no predictions of one predictor ({', '.join(missing)} missing, "
            f"has {', '.join(map(str, table))[:200]})"
        )
    if table.empty:
        raise ItemsError(f"{name}: no product in it")
    table = table.assign(id=_checked_ids(table["id"], name))
    for column in numbers or map(str, table):
        if column in table and column not in ("id", "greedy_text"):
            table[column] = _checked_numbers(table, column, name)
    return table


def _checked_ids(ids: "pd.Series[Any]", name: str) -> "pd.Series[Any]":
    """Return the ids as int64 or text, each there once."""
    every = ids.tolist()
    if {type(one) for one in every} != {str}:
        wrong = [one for one in every if type(one) is not int or not -(2**63) <= one < 2**63]
        if wrong:
            raise ItemsError(
                f"{name}: ids must be all whole numbers below 2^63, or all text, "
                f"got {quoted(wrong[0])}"
            )
        ids = ids.astype("int64")
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise ItemsError(
            f"{name}: {repeated.nunique()} products stand in it more than once, "
            f"the first is id {quoted(repeated.tolist()[0])}: keep one row of each"
        )
    return ids


def _checked_numbers(table: pd.DataFrame, column: str, name: str) -> "pd.Series[float]":
    """Return a column as finite numbers; an estimate may be missing, a price is above 0."""
    values = table[column]
    numbers = values.map(lambda value: float(value) if type(value) in NUMBERS else math.nan)
    low, high, allowed = _bounds(column)
    bad = ~numbers.between(low, high)
    if column in MAY_BE_MISSING:
        bad &= values.notna()
    if bad.any():
        product, value = (table.loc[bad, key].tolist()[0] for key in ("id", column))
        raise ItemsError(
            f"{name}: {column} of product {quoted(product)} must be {allowed}, "
            f"got {quoted(value)} ({int(bad.sum())} of {len(table)} are not)"
        )
    return numbers


def _bounds(column: str) -> tuple[float, float, str]:
    """Return the lowest and the highest value of a column, and what an error calls these."""
    if column == "price":
        return 0.01, 1e9, "a price above 0"
    if column in PROBABILITIES:
        return -1e-6, 1 + 1e-6, "a number from 0 to 1"
    if column in ("crps", "expected_error_usd"):
        return 0, LARGEST, "a finite number from 0"
    return -LARGEST, LARGEST, "a finite number"


def no_number_is_zero(table: pd.DataFrame) -> pd.DataFrame:
    """Return a predictions table in which no number counts as $0, as in the reference recipe.

    `unparsed` says of which estimates: where the model was asked for text and said no number.
    """
    said = {name: table[name].fillna(0.0) for name in ("estimate_usd", "greedy") if name in table}
    return table.assign(unparsed=table["estimate_usd"].isna(), **said)
