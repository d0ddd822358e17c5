"""What is monitored: estimates and outcomes, from the service's log or from a predictions file."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.errors import ItemsError, quoted
from pricer.evidence.table import nearest_similarity, read_evidence
from pricer.files import read_parquet
from pricer.prices.predictions import QUANTILES
from pricer.products.items import SPLITS, parse_amount
from pricer.products.readers import read_tables
from pricer.workspace import Workspace, require

if TYPE_CHECKING:  # its libraries are an extra, which a predictions file does without
    from pricer.serving.log import Columns, Log, Selection

Floats = NDArray[np.float64]

# numbers of a row, NaN where there is none
NUMBERS = {
    "estimate_usd": "the estimate",
    "low_usd": "lower end of its interval",
    "high_usd": "upper end",
    "level": "of the interval, percent",
    "width_usd": "width of the model's own 80% interval",
    "price_mass": "probability that a price comes next at all",
    "truncated": "1 where the description was cut, else 0",
    "similarity": "to the nearest training product, 0 to 1",
    "expected_error_usd": "mean absolute error that the model's distribution expects",
    "fallback": "1 where words and neighbours answered, else 0",
    "price_usd": "what the product sold for, where that is known",
    "rank": "how many of the model's quantiles, `QUANTILES`, the price is above",
}
AGAIN = "text_key"
# `text` is None but for a sample, `category` where there is none, `at` is UTC or NaT
COLUMNS = (*NUMBERS, "text", AGAIN, "category", "at")
TEXTS = 8_000  # descriptions that are read, of estimates and of outcomes


@dataclass(frozen=True)
class Observed:
    """Products with their estimates: NUMBERS, text, text_key, category and at.

    Each product, by its description, is there once, as it was last: what is asked ten times is no
    ten products.

    Attributes:
        name: what it is called.
        estimates: in the order that they were made.
        outcomes: those whose price is known, in the order that it came.
        asked: estimates before those of the same product were dropped.
    """

    name: str
    estimates: pd.DataFrame
    outcomes: pd.DataFrame
    asked: int


def observed(name: str, estimates: pd.DataFrame, outcomes: pd.DataFrame) -> Observed:
    """Return tables of estimates and outcomes with each product once."""
    return Observed(name, _once(estimates), _once(outcomes), len(estimates))


def _once(table: pd.DataFrame) -> pd.DataFrame:
    return table[~table[AGAIN].duplicated(keep="last")].reset_index(drop=True)


def read_log(log: "Log", selection: "Selection", name: str) -> Observed:
    """Read a period of the log.

    Raises:
        LogError: the database does not answer.
    """
    return observed(
        name,
        _table(map(_log_columns, log.estimates_of(selection))),
        _table(map(_log_columns, log.outcomes_of(selection))),
    )


def _log_columns(seen: "Columns") -> dict[str, Any]:
    """Return COLUMNS of rows of the log, see `pricer.serving.log.SEEN`."""
    from pricer.serving import log

    prices = np.array(seen["price_usd"], dtype=float)
    none = [math.nan] * len(log.QUANTILES)
    quantiles = np.array([those or none for those in seen["quantiles_usd"]], dtype=float)
    of = dict(zip(log.QUANTILES, quantiles.T, strict=True))
    derived = {
        # 60 bits tell products apart
        "text_key": [int(sha256[:15], 16) for sha256 in seen["description_sha256"]],
        "text": seen["description"],
        "at": seen["recorded_at"] if seen["recorded_at"][0] else seen["created_at"],
        "width_usd": of[90] - of[10],
        "fallback": [reason is not None for reason in seen["fallback"]],
        "rank": _rank(prices, np.stack([of[level] for level in QUANTILES])),
    }
    return {name: derived[name] if name in derived else seen[name] for name in COLUMNS}


def _rank(prices: Floats, quantiles: Floats) -> Floats:
    """Return how many quantiles, (levels, n), each price is above; NaN where one is missing."""
    unknown = np.isnan(prices) | np.isnan(quantiles).any(axis=0)
    return np.where(unknown, math.nan, (prices > quantiles).sum(axis=0))


def read_file(path: Path, root: Workspace) -> Observed:
    """Read a predictions file: what `pricer predict --output` or the predict stage wrote.

    With a `price` (or `price_usd`), what came of it is judged too; with `created_at`, when. A table
    without descriptions is of products of the pipeline, and gets theirs.

    Raises:
        ItemsError: it cannot be read, or has no estimates.
    """
    parts = list(read_tables(path, 50_000))
    rows = pd.concat(parts, ignore_index=True)
    if "estimate_usd" not in rows:
        raise ItemsError(
            f"{path}: no column estimate_usd, has {', '.join(map(str, rows))[:200]}: name a file "
            "of predictions"
        )
    if not {"summary", "description"} & set(rows):
        rows = _with_products(rows, path, root)
    table = _table([_file_columns(rows, path)])
    table = table[table["estimate_usd"].notna()]
    if table.empty:
        raise ItemsError(f"{path}: no estimate in it")
    if table["at"].notna().any():
        table = table.sort_values("at", kind="stable")
    return observed(str(path), table, table[table["price_usd"].notna()])


def _with_products(rows: pd.DataFrame, path: Path, root: Workspace) -> pd.DataFrame:
    """Add to predictions of a split what its items and their evidence say."""
    for split in SPLITS[::-1]:
        file = root.items / f"{split}.parquet"
        if not file.exists() or "id" not in rows:
            continue
        items = read_parquet(file, ["id", "summary", "category"]).set_index("id")
        if not rows["id"].isin(items.index).all():
            continue
        require(root.evidence / f"{split}.parquet", root.prompts / f"{split}.parquet")
        evidence = read_evidence(root.evidence, split).set_index("id")
        cut = read_parquet(root.prompts / f"{split}.parquet", ["id", "truncated"]).set_index("id")
        ids = rows["id"]
        return rows.assign(
            summary=items["summary"].loc[ids].to_numpy(),
            category=items["category"].loc[ids].to_numpy(),
            similarity=nearest_similarity(evidence.loc[ids]),
            truncated=cut["truncated"].loc[ids].to_numpy(),
        )
    raise ItemsError(
        f"{path}: no descriptions (summary), and no products of {root.items}: `pricer predict "
        "--file PRODUCTS --output FILE` writes both"
    )


# USD that can be: a price of nothing, or below it, is a mistake of the file
POSSIBLE = {"price_usd": (0.01, 1e9), "estimate_usd": (0.0, 1e9)}
DERIVED = ("width_usd", "rank", "fallback")  # from other columns of a file
# where a file of predictions may have what NUMBERS names, the first that it has
ELSEWHERE = {
    "low_usd": ("low_usd", "low_80"),
    "high_usd": ("high_usd", "high_80"),
    "level": ("interval", "level"),
    "price_usd": ("price_usd", "price"),
}


def _file_columns(rows: pd.DataFrame, path: Path) -> dict[str, Any]:
    def numbers(*columns: str) -> Floats:
        for column in columns:
            if column in rows:
                return _numbers(rows[column], path)
        return np.full(len(rows), math.nan)

    told: dict[str, Any] = {
        name: numbers(*ELSEWHERE.get(name, (name,))) for name in NUMBERS if name not in DERIVED
    }
    for name, (low, high) in POSSIBLE.items():
        wrong = (told[name] < low) | (told[name] > high)
        if wrong.any():
            raise ItemsError(
                f"{path}: {name} must be {low:g} to {high:,.0f} dollars, got "
                f"{told[name][wrong][0]:g} ({int(wrong.sum())} of {len(rows)} are not)"
            )
    if "interval" not in rows and "level" not in rows:
        told["level"] = np.where(np.isnan(told["low_usd"]), math.nan, 80.0)
    if "neighbors" in rows:
        told["similarity"] = np.array([_nearest(one) for one in rows["neighbors"]])
    of = {level: numbers(f"q{level:02}") for level in QUANTILES}
    nothing = pd.Series([None] * len(rows), dtype=object)
    texts = rows["summary"] if "summary" in rows else rows["description"]
    return told | {
        "width_usd": of[90] - of[10],
        "fallback": [_said(one) for one in rows.get("fallback", nothing)],
        "rank": _rank(told["price_usd"], np.stack(list(of.values()))),
        "text": texts,
        "text_key": pd.util.hash_array(texts.fillna("").astype(object).to_numpy()).view(np.int64),
        "category": rows.get("category", nothing).replace("", None),
        "at": _times(rows.get("created_at", nothing), path),
    }


def _said(reason: Any) -> bool:
    """Tell whether a cell names a reason, and is not empty or a no."""
    return str(reason).strip().lower() not in ("", "none", "nan", "<na>", "false", "0", "0.0")


def _times(values: "pd.Series[Any]", path: Path) -> "pd.Series[pd.Timestamp]":
    """Return times in UTC, NaT where there is none.

    Raises:
        ItemsError: one is no time as ISO 8601 writes it.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return pd.to_datetime(values, utc=True)
    given = values.replace("", None)
    numbers = given.map(lambda value: isinstance(value, int | float) and value == value)
    told = pd.to_datetime(
        given.mask(numbers, "a number"), utc=True, errors="coerce", format="ISO8601"
    )
    if (wrong := told.isna() & given.notna()).any():
        raise ItemsError(
            f"{path}: {values.name} must be a time such as 2026-11-01T12:00:00Z, got "
            f"{quoted(given[wrong].iloc[0])}"
        )
    return told


def _numbers(values: "pd.Series[Any]", path: Path) -> Floats:
    """Return a column of a file as finite numbers, NaN where it says none.

    Raises:
        ItemsError: a text is none, as in a CSV it might be.
    """
    truths = {"True": 1.0, "False": 0.0, "true": 1.0, "false": 0.0}
    given = values.map(lambda value: truths.get(value, value) if isinstance(value, str) else value)
    given = given.replace("", None)
    told = pd.to_numeric(given, errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    wrong = np.isnan(told) & given.notna().to_numpy()
    if wrong.any():
        bad = values[wrong].iloc[0]
        amount = parse_amount(bad)
        advice = f", {amount:g} would be one" if amount is not None else ""
        raise ItemsError(f"{path}: {values.name} must be a number, got {quoted(bad)}{advice}")
    return np.where(np.isfinite(told), told, math.nan)


def _nearest(neighbors: Any) -> float:
    """Return the similarity of the first of a list of neighbours; 0 where no product is near.

    NaN where nothing is said of neighbours.
    """
    try:
        told = json.loads(neighbors) if isinstance(neighbors, str) else neighbors
        return float(told[0]["similarity"]) if len(told) else 0.0
    except (ValueError, TypeError, KeyError, IndexError):
        return math.nan


def _table(parts: Iterable[dict[str, Any]]) -> pd.DataFrame:
    frames = [_frame(part) for part in parts]
    return pd.concat(frames, ignore_index=True) if frames else _frame(dict.fromkeys(COLUMNS, ()))


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    # of few categories, each text is held once
    names = [None if one is None or one != one else intern(str(one)) for one in columns["category"]]
    texts = [one if isinstance(one, str) else None for one in columns["text"]]
    at = pd.to_datetime(pd.Series(list(columns["at"]), dtype=object), utc=True)
    return pd.DataFrame(
        {
            **{name: np.array(columns[name], dtype=float) for name in NUMBERS},
            "text": pd.Series(texts, dtype=object),
            AGAIN: np.array(columns[AGAIN], dtype=np.int64),
            "category": pd.Series(names, dtype=object),
            "at": at.dt.as_unit("us"),
        }
    )
