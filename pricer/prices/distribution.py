"""Distributions over whole-dollar prices to point estimates and intervals: pure NumPy.

A distribution is a row of probabilities: column v is the price of v dollars.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricer.errors import PricerError

Floats = NDArray[np.float64]

NO_DISTRIBUTION = (
    "the model gives no price a probability (NaN or infinity in its computation): its weights or "
    "the adapter's are damaged, or compute.dtype float16 overflows (set it to bfloat16 or float32)"
)
FOLDS = 10  # of the products that a regression is fitted on, to try it on the others
LEVELS = range(1, 100)  # percent; the intervals that a calibration holds offsets for


@dataclass(frozen=True)
class PriceDistributions:
    """What a model says about n prices.

    Attributes:
        probabilities: (n, max_price + 1), of each whole-dollar price; rows sum to 1.
        price_mass: (n,), the probability before normalisation that a price comes next.
        dropped_mass: (n,), the probability left out unseen, which may be a price's: with it,
            the price mass is at most their sum.
        greedy_texts: the n most likely continuations, token by token; empty where not asked for.
        batch_size: of the last forward pass, what memory allowed.
    """

    probabilities: Floats
    price_mass: Floats
    dropped_mass: Floats
    greedy_texts: list[str]
    batch_size: int

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Where there is a distribution, (n,): NaN or infinity in a model leaves none."""
        masses = np.isfinite(self.price_mass) & np.isfinite(self.dropped_mass)
        return np.asarray(masses & np.isfinite(self.probabilities).all(axis=1))

    def recentered(self, intercept: float, slope: float) -> "PriceDistributions":
        """Return the same with each distribution in another place, see `recentered`."""
        return replace(self, probabilities=recentered(self.probabilities, intercept, slope))

    def check_usable(self, ids: Iterable[object]) -> None:
        """Raise PricerError with the id of the first of the n products without a distribution."""
        for product, usable in zip(ids, self.usable, strict=True):
            if not usable:
                raise PricerError(f"product {product}: {NO_DISTRIBUTION}")


def quantile(probabilities: Floats, level: float) -> Floats:
    """Return the lowest price that the truth is at or below with probability `level`.

    Args:
        probabilities: (n, values), rows summing to 1.
        level: between 0 and 1.

    Returns:
        (n,) USD.
    """
    reached = probabilities.cumsum(axis=1) >= level - 1e-12  # sums of floats fall a bit short
    reached[:, -1] = True
    return np.asarray(reached.argmax(axis=1), dtype=float)


def median(probabilities: Floats) -> Floats:
    """Return the price (n,), USD, that half of the probability is at or below.

    It minimises the expected absolute error.
    """
    return quantile(probabilities, 0.5)


def mode(probabilities: Floats) -> Floats:
    """Return the likeliest price (n,), USD."""
    return np.asarray(probabilities.argmax(axis=1), dtype=float)


def mean(probabilities: Floats) -> Floats:
    """Return the expected price (n,), USD, which minimises the expected squared error."""
    values = np.arange(probabilities.shape[1])
    return np.asarray((probabilities * values).sum(axis=1), dtype=float)


# kinds of estimate that a distribution gives; `greedy` is the number in what the model says
ESTIMATES = {"median": median, "mean": mean, "mode": mode}
KINDS = (*ESTIMATES, "greedy")


def interval(probabilities: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the central interval of probability `level` (between 0 and 1): low and high, USD."""
    return quantile(probabilities, (1 - level) / 2), quantile(probabilities, (1 + level) / 2)


def expected_error(probabilities: Floats, estimates: ArrayLike) -> Floats:
    """Return by how much estimates (n,), USD, are off on average if the distribution is right.

    >>> expected_error(np.array([[0.5, 0.0, 0.5]]), [1.0]).tolist()
    [1.0]
    """
    values = np.arange(probabilities.shape[1], dtype=float)
    distance = np.abs(values - np.asarray(estimates, dtype=float)[:, None])
    return np.asarray((probabilities * distance).sum(axis=1), dtype=float)


def crps(y_true: ArrayLike, probabilities: Floats) -> Floats:
    """Continuous ranked probability score, USD, lower is better.

    Args:
        y_true: (n,) USD, whole or not.
        probabilities: (n, values), rows summing to 1.

    Returns:
        (n,) USD: 0 for a point mass on the truth, the absolute error for one elsewhere.

    >>> crps([2.0, 0.0], np.array([[0.0, 0.0, 1.0], [0.5, 0.0, 0.5]])).tolist()
    [0.0, 0.5]

    Source: Gneiting and Raftery (2007), eq. 21: E|X - y| - E|X - X'| / 2.
    """
    truth = np.asarray(y_true, dtype=float)
    values = np.arange(probabilities.shape[1], dtype=float)
    distance = (probabilities * np.abs(values - truth[:, None])).sum(axis=1)
    below = probabilities.cumsum(axis=1)[:, :-1]
    return np.asarray(distance - (below * (1 - below)).sum(axis=1), dtype=float)


def pit(y_true: ArrayLike, probabilities: Floats) -> Floats:
    """Return the probability integral transform (n,): uniform on 0 to 1 for honest forecasts.

    The probability of a lower price and half that of the same, as prices are whole dollars here
    (Czado, Gneiting and Held 2009 for counts).
    """
    whole = np.rint(np.asarray(y_true, dtype=float)).astype(int)
    column = whole.clip(0, probabilities.shape[1] - 1)[:, None]
    at = np.take_along_axis(probabilities, column, axis=1)[:, 0]
    up_to = np.take_along_axis(probabilities.cumsum(axis=1), column, axis=1)[:, 0]
    return up_to - at / 2


def recentered(probabilities: Floats, intercept: float, slope: float) -> Floats:
    """Return distributions with medians at `intercept` + `slope` x theirs, in log(1 + price).

    Each is moved on that scale and keeps its width there. What goes beyond the lowest or the
    highest price stays at it; what a dollar had is spread evenly over where it goes.

    Args:
        probabilities: (n, values), rows summing to 1.
        intercept: 0 and a slope of 1 move nothing.
        slope: from 0.
    """
    if (intercept, slope) == (0, 1):
        return probabilities
    values = probabilities.shape[1]
    shift = intercept + (slope - 1) * np.log1p(median(probabilities))
    # where the ends between two dollars were before: dollars above the lowest end of all
    ends = np.log1p(np.arange(values - 1) + 0.5)
    before = (np.expm1(ends - shift[:, None]) + 0.5).clip(0, values)
    whole = np.minimum(before.astype(int), values - 1)
    up_to = np.pad(probabilities.cumsum(axis=1), ((0, 0), (1, 0)))
    at, after = (np.take_along_axis(up_to, place, axis=1) for place in (whole, whole + 1))
    moved = at + (after - at) * (before - whole)
    return np.diff(moved, axis=1, prepend=0, append=up_to[:, -1:])


def fit_center(y_true: ArrayLike, probabilities: Floats) -> tuple[float, float]:
    """Return the intercept and slope for `recentered` that validation products ask for.

    A model that has learnt from few products holds back: what it calls dear is dearer still. The
    regression of the truth on what was said tells by how much (Mincer and Zarnowitz 1969), on the
    scale of log(1 + price).

    Args:
        y_true: (n,) USD, of products that were not trained on.
        probabilities: (n, values) of their prices.

    Returns:
        The two; 0 and 1 unless the mean CRPS falls by more than its standard error on products
        that the regression has not seen (Breiman et al. 1984, the one-standard-error rule).
    """
    truth = np.asarray(y_true, dtype=float)
    logs, said = np.log1p(truth), np.log1p(median(probabilities))
    folds = np.arange(len(truth)) % FOLDS
    scores = np.empty(len(truth))
    for fold in np.unique(folds):
        own = folds == fold
        line = _regression(said[~own], logs[~own])
        scores[own] = crps(truth[own], recentered(probabilities[own], *line))
    gained = crps(truth, probabilities) - scores
    pays = gained.mean() > gained.std() / math.sqrt(len(gained))
    return _regression(said, logs) if pays else (0.0, 1.0)


def _regression(x: Floats, y: Floats) -> tuple[float, float]:
    """Return the intercept and slope, from 0, of y (n,) on x (n,); 0 and 1 for a single point."""
    if len(x) < 2:
        return 0.0, 1.0
    spread = x - x.mean()
    slope = max(float(spread @ y / (spread @ spread)), 0.0) if np.ptp(x) else 1.0
    return float(y.mean() - slope * x.mean()), slope


def smallest_calibration(level: float) -> int:
    """Return how many products an interval of `level` needs at least to be calibrated."""
    return math.ceil(round(level / (1 - level), 9))


def conformal_offset(y_true: ArrayLike, low: Floats, high: Floats, level: float) -> float:
    """Return how far intervals must grow, on the scale of log(1 + price), to hold what they say.

    Conformalized quantile regression (Romano, Patterson and Candès 2019, eq. 4-7) on the log
    scale, where prices of dollars and of hundreds are off by like amounts. With products that are
    exchangeable with those to come, the grown intervals cover at least `level` of them.

    Args:
        y_true: (n,) USD, of products that were not trained on.
        low: (n,) USD, lower ends.
        high: (n,) USD, upper ends.
        level: between 0 and 1.

    Returns:
        The offset; negative where the intervals were wider than needed.

    Raises:
        PricerError: too few products for the finite-sample correction (n + 1) level <= n.
    """
    truth = np.log1p(np.asarray(y_true, dtype=float))
    needed = smallest_calibration(level)
    if len(truth) < needed:
        raise PricerError(
            f"an interval of {level:.0%} needs at least {needed} products to be calibrated on, "
            f"got {len(truth)}: raise predict.calibration_size or the size of the validation split"
        )
    outside = np.maximum(np.log1p(low) - truth, truth - np.log1p(high))
    rank = math.ceil(round((len(truth) + 1) * level, 9))
    return float(np.sort(outside)[rank - 1])


def calibrated(low: Floats, high: Floats, offset: float) -> tuple[Floats, Floats]:
    """Return intervals grown by a conformal offset: low and high (n,), USD, never below 0."""
    grown_low = np.expm1(np.maximum(np.log1p(low) - offset, 0))
    grown_high = np.expm1(np.maximum(np.log1p(high) + offset, 0))
    # a large negative offset would turn a narrow interval inside out
    middle = np.expm1((np.log1p(low) + np.log1p(high)) / 2)
    inverted = grown_low > grown_high
    return np.where(inverted, middle, grown_low), np.where(inverted, middle, grown_high)


def calibration_offsets(y_true: ArrayLike, probabilities: Floats) -> dict[str, float]:
    """Return the conformal offset of the interval of each whole percent that n products allow."""
    count = len(np.asarray(y_true))
    return {
        str(percent): conformal_offset(
            y_true, *interval(probabilities, percent / 100), percent / 100
        )
        for percent in LEVELS
        if smallest_calibration(percent / 100) <= count
    }
