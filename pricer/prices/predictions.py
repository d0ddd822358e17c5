"""The predictions table: made, described and read here, without torch."""

import re
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
NEEDED = ["id", "price", "estimate_usd"]  # of a table that is to be judged
TEXT = ("greedy_text",)
GAPS = ("estimate_usd", "greedy")  # where there is no number in what a model said

EXACT = 2**53  # from here on, whole numbers share floats
LARGEST = 1e100  # squares of what is larger, and their sums, leave the range of floats
# what is in any other column may be negative: a linear model's estimates are
BOUNDS = {
    "price": (0, 1e9),  # USD; nothing that is sold costs more
    "crps": (0, LARGEST),
    **dict.fromkeys(("price_mass", "dropped_mass", "pit"), (-1e-6, 1 + 1e-6)),
}

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
        said: of these products, with greedy texts.
        offsets: from `calibration_offsets`, for the intervals 50, 80 and 90 at least.
        kind: of the estimate that is judged, one of `KINDS`.

    Raises:
        PricerError: there were too few products to calibrate an interval on.
    """
    probabilities = said.probabilities
    columns = {name: estimate(probabilities) for name, estimate in ESTIMATES.items()}
    columns["greedy"] = pd.Series(map(parse_price, said.greedy_texts), dtype=float).to_numpy()
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
        greedy_text=said.greedy_texts,
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
        ItemsError: it is no Parquet file, not one of the predictions of one predictor, or holds
            an id or a number that cannot be.
    """
    return no_number_is_zero(_read(source, name, NEEDED))


def read_baselines(source: Path | BinaryIO, name: str) -> pd.DataFrame:
    """Read the baselines' estimates: id, price, and a column (USD) for each; see `NEEDED`.

    Raises:
        ItemsError: as `read_predictions`.
    """
    return _read(source, name, NEEDED[:2])


def _read(source: Path | BinaryIO, name: str, needed: list[str]) -> pd.DataFrame:
    table = read_parquet(source, name=name)
    missing = [column for column in needed if column not in table]
    if missing or not table.columns.is_unique:
        raise ItemsError(
            f"{name}: no predictions of one predictor ({', '.join(missing) or 'no column'} "
            f"missing, has {', '.join(map(str, table))})"
        )
    if table.empty:
        raise ItemsError(f"{name}: no product in it")
    _check_ids(table["id"], name)
    for column in map(str, table):
        ours = column in COLUMNS or "estimate_usd" not in needed
        if ours and column not in ("id", *TEXT):
            _check_numbers(table, column, name)
    return table.astype({"id": "int64"})


def _check_ids(ids: "pd.Series[Any]", name: str) -> None:
    ids = ids.astype(object)  # as Python has numbers
    whole = ids.map(_is_id)
    if not whole.all():
        raise ItemsError(
            f"{name}: id {quoted(ids[~whole].iloc[0])} is no whole number below 2^63 that is known "
            "exactly: write ids as 64-bit integers"
        )
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise ItemsError(
            f"{name}: id {repeated.iloc[0]} occurs more than once ({len(repeated)} repeated): "
            "predictions of one predictor have a row for each product"
        )


def _is_id(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer() and abs(value) < EXACT
    return type(value) is int and -(2**63) <= value < 2**63


def _check_numbers(table: pd.DataFrame, column: str, name: str) -> None:
    values = table[column]
    low, high = BOUNDS.get(column, (-LARGEST, LARGEST))
    if column in GAPS and values.isna().all():
        return
    if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
        raise ItemsError(
            f"{name}: column {column} must hold numbers (got {quoted(values.iloc[0])})"
        )
    right = values.between(low, high) | (values.isna() if column in GAPS else False)
    if not right.all():
        row = int(np.argmin(right))
        raise ItemsError(
            f"{name}: {column} of product {table['id'].iloc[row]} is {values.iloc[row]}, "
            f"must be a number from {low:g} to {high:g}"
        )


def no_number_is_zero(table: pd.DataFrame) -> pd.DataFrame:
    """Return a predictions table in which no number counts as $0, as in the reference recipe.

    `unparsed` says of which estimates: where the model was asked for text and said no number.
    """
    said = {name: table[name].fillna(0.0) for name in ("estimate_usd", "greedy") if name in table}
    return table.assign(unparsed=table["estimate_usd"].isna(), **said)
