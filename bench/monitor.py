"""False alarms and power of `pricer monitor`, on what the last run's model says.

Products are drawn, with replacement, from the validation and test predictions together: that is the
world, from which a reference and streams without change come. A change is then made to a stream's
products, and it is looked at as it grows.

    python -m bench.monitor --streams 200 --looks 20
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pricer.monitoring.checks import CHECKS, compare
from pricer.monitoring.observed import Observed, observed, read_file
from pricer.workspace import Workspace

SIZES = (50, 100, 200, 400, 800, 1600)  # products after the change, at each look
REFERENCE = 200

Change = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]


def world() -> pd.DataFrame:
    """Return the products that there are, with estimates and prices."""
    files = [f"data/predictions/{name}.parquet" for name in ("tuned_validation", "tuned")]
    tables = [read_file(Path(file), Workspace()).outcomes for file in files]
    return pd.concat(tables, ignore_index=True)


def drawn(table: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return n products, each a product of its own also where it was drawn twice."""
    rows = table.iloc[rng.integers(len(table), size=n)].reset_index(drop=True)
    return rows.assign(text_key=rng.integers(2**60, size=n))


def dearer(table: pd.DataFrame, _: np.random.Generator) -> pd.DataFrame:
    """Prices 15% higher, estimates as they were."""
    return table.assign(price_usd=table["price_usd"] * 1.15)


def currency(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A tenth of the prices in another currency: times 1.1."""
    factor = np.where(rng.random(len(table)) < 0.1, 1.1, 1.0)
    return table.assign(price_usd=table["price_usd"] * factor)


def category(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A fifth of the products of a category that nobody has seen."""
    new = rng.random(len(table)) < 0.2
    return table.assign(category=table["category"].where(~new, "Drones"))


def cut(table: pd.DataFrame, _: np.random.Generator) -> pd.DataFrame:
    """Descriptions cut after 15 words; estimates as they were, so that words alone tell."""
    return table.assign(text=[" ".join(text.split()[:15]) for text in table["text"]])


CHANGES: dict[str, tuple[Change, bool]] = {
    "prices +15%": (dearer, True),
    "x 1.1 on a tenth of prices": (currency, True),
    "a new category, 20%": (category, False),
    "descriptions cut to 15 words": (cut, False),
}


def alarms(reference: Observed, table: pd.DataFrame, alpha: float, *, judged: bool) -> list[str]:
    """Return the checks that alarm; without outcomes, none is of these."""
    outcomes = table if judged else table.head(0)
    known = set(reference.estimates["category"])
    found, _ = compare(reference, observed("stream", table, outcomes), known, alpha)
    return [name for name, one in found.items() if one.alarmed]


def main() -> None:
    """Print the share of streams that alarm, without a change and with each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--looks", type=int, default=20)
    parser.add_argument("--changed-streams", type=int, default=20)
    told = parser.parse_args()
    everything, alpha = world(), 0.05 / (told.looks * len(CHECKS))
    began, false = time.perf_counter(), 0
    for seed in range(told.streams):
        rng = np.random.default_rng(seed)
        first = drawn(everything, REFERENCE, rng)
        reference = observed("reference", first, first)
        stream = drawn(everything, 100 * told.looks, rng)
        looks = (stream.iloc[100 * look : 100 * (look + 1)] for look in range(told.looks))
        false += any(alarms(reference, one, alpha, judged=True) for one in looks)
    print(
        f"without change: {false} of {told.streams} streams alarm at one of {told.looks} looks at "
        f"100 products each ({time.perf_counter() - began:.0f} s)"
    )
    for name, (change, judged) in CHANGES.items():
        print(f"{name}: {power(everything, change, alpha, told.changed_streams, judged=judged)}")


def power(
    everything: pd.DataFrame, change: Change, alpha: float, streams: int, *, judged: bool
) -> str:
    """Say how many streams alarm after how many products, and by which checks."""
    parts = []
    for size in SIZES:
        found: list[list[str]] = []
        for seed in range(streams):
            rng = np.random.default_rng(1_000 + seed)
            first = drawn(everything, REFERENCE, rng)
            stream = change(drawn(everything, size, rng), rng)
            reference = observed("reference", first, first)
            found.append(alarms(reference, stream, alpha, judged=judged))
        checks = sorted({check for those in found for check in those})
        hits = sum(map(bool, found))
        by = f" ({', '.join(checks)})" if hits else ""
        parts.append(f"{size} products {hits}/{streams}{by}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
