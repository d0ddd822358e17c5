"""The one bootstrap over products, and the typed results that hold its intervals.

The report, `pricer compare` and `pricer sweep show` all take their intervals from here. Products
are drawn in the order of their ids, whatever the order of rows and whoever else is judged beside,
so that the same claim about the same products has the same interval everywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
CHUNK = 2_000_000  # drawn products at once while resampling: 16 MB an array


@dataclass(frozen=True)
class Bootstrap:
    """How products are drawn: so many resamples, the same ones for the same seed."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Interval:
    """A 95% interval, in the unit of what it is of."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Tell whether `value` lies inside, the ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Gap:
    """A mean loss less another one on the same n products: below 0, the first is better."""

    n: int
    value: float
    interval: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval says which of the two is better."""
        return not self.interval.holds(0)


@dataclass(frozen=True)
class Score:
    """What is measured of one predictor on n products.

    Attributes:
        n: products.
        values: by the metric's name.
        intervals: of those metrics that have one, by the metric's name.
    """

    n: int
    values: dict[str, float]
    intervals: dict[str, Interval]


def resampled_means(ids: ArrayLike, values: Floats, bootstrap: Bootstrap) -> Floats:
    """Return the column means of `values` over bootstrap resamples of its rows.

    All columns share the resamples, so that what they have in common cancels out of differences.

    Args:
        ids: (n,) of the products, each once; they are drawn in this order.
        values: (n, k).
        bootstrap: how they are drawn.

    Returns:
        (resamples, k).
    """
    rng = np.random.default_rng(bootstrap.seed)
    values = values[np.argsort(np.asarray(ids), kind="stable")]
    n = len(values)
    means = np.empty((bootstrap.resamples, values.shape[1]))
    step = max(CHUNK // n, 1)
    for start in range(0, bootstrap.resamples, step):
        size = min(step, bootstrap.resamples - start)
        drawn = rng.integers(n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        # how often each product was drawn: one matrix product then serves every column
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(float) @ values / n
    return means


def percentile_interval(resampled: Floats) -> Interval:
    """Return the 95% percentile interval (Efron and Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def mean_intervals(
    ids: ArrayLike, values: dict[str, Floats], bootstrap: Bootstrap
) -> dict[str, Interval]:
    """Return the interval of the mean of each column (n,), by its name."""
    means = resampled_means(ids, np.stack(list(values.values()), axis=1), bootstrap)
    return {name: percentile_interval(means[:, place]) for place, name in enumerate(values)}


def paired_gaps(
    ids: ArrayLike, differences: dict[str, Floats], bootstrap: Bootstrap
) -> dict[str, Gap]:
    """Return the mean of each difference of losses, with its interval.

    The bootstrap resamples products, each with both losses: what they share cancels out.

    Args:
        ids: (n,) of the products.
        differences: (n,) a loss less another one of the same product, by name.
        bootstrap: how products are drawn.
    """
    intervals = mean_intervals(ids, differences, bootstrap)
    return {
        name: Gap(len(difference), float(difference.mean()), intervals[name])
        for name, difference in differences.items()
    }


def gaps_by_group(
    ids: ArrayLike, difference: Floats, groups: pd.Categorical, bootstrap: Bootstrap
) -> dict[str, Gap]:
    """Return the mean of a difference of losses in each group that has products.

    Args:
        ids: (n,) of the products.
        difference: (n,) a loss less another one of the same product.
        groups: (n,) each product's group.
        bootstrap: how the products of each group are drawn.
    """
    members = {group: groups == group for group in groups.categories}
    return {
        group: paired_gaps(np.asarray(ids)[rows], {"": difference[rows]}, bootstrap)[""]
        for group, rows in members.items()
        if rows.any()
    }


def flat(result: Any) -> Any:
    """Return a result as JSON files and `--format json` hold it, at any depth of dicts.

    A score becomes n, its values and `_ci_low` and `_ci_high` of those with an interval; a gap,
    which is one of mean absolute errors, mae, mae_ci_low and mae_ci_high.
    """
    if isinstance(result, dict):
        return {key: flat(value) for key, value in result.items()}
    if isinstance(result, Gap):
        return _with_ends({"mae": result.value}, {"mae": result.interval})
    if isinstance(result, Score):
        return {"n": result.n} | _with_ends(result.values, result.intervals)
    return result


def _with_ends(values: dict[str, float], intervals: dict[str, Interval]) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, value in values.items():
        columns[name] = value
        if name in intervals:
            columns[f"{name}_ci_low"] = intervals[name].low
            columns[f"{name}_ci_high"] = intervals[name].high
    return columns
