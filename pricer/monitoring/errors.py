"""How far off estimates are: as the model expects before outcomes come, and as they tell."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from pricer.judging.paired import Interval
from pricer.monitoring.checks import errors, inside
from pricer.monitoring.shift import FEWEST
from pricer.monitoring.texts import MARGIN

Floats = NDArray[np.float64]
FIFTHS, FEWEST_IN_FIFTH = 5, 5


@dataclass(frozen=True)
class Mean:
    """A mean over n products with its 95% interval."""

    n: int
    value: float
    interval: Interval


def mean_of(values: Floats) -> Mean | None:
    """Return the mean of what is not NaN; None of fewer than FEWEST."""
    values = values[~np.isnan(values)]
    if len(values) < FEWEST:
        return None
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return _mean(len(values), float(values.mean()), error)


def share_of(values: Floats) -> Mean | None:
    """Return the mean of zeros and ones, as `mean_of`; its interval is Wilson's (1927)."""
    share = mean_of(values)
    if share is None:
        return None
    ends = binomtest(round(share.value * share.n), share.n).proportion_ci(method="wilson")
    return replace(share, interval=Interval(float(ends.low), float(ends.high)))


def _mean(n: int, value: float, error: float) -> Mean:
    return Mean(n, value, Interval(value - MARGIN * error, value + MARGIN * error))


def realised(outcomes: pd.DataFrame) -> dict[str, Mean]:
    """Return mae, bias (estimate less price, USD) and coverage_80 of what the model answered."""
    own = outcomes[outcomes["fallback"] == 0]
    told = {
        "mae": mean_of(np.abs(errors(own))),
        "bias": mean_of(errors(own)),
        "coverage_80": share_of(inside(own)),
    }
    return {name: one for name, one in told.items() if one}


def expected_mae(reference: pd.DataFrame, estimates: pd.DataFrame) -> Mean | None:
    """Return the error to expect of estimates whose prices nobody knows yet.

    What the model's distributions expect, times how much larger errors were in the reference than
    expected there. The interval is by the delta method, of both.

    Args:
        reference: products whose price is known.
        estimates: of the period.
    """
    own = reference[(reference["fallback"] == 0) & reference["expected_error_usd"].notna()]
    now = mean_of(estimates["expected_error_usd"].to_numpy(float))
    if len(own) < FEWEST or now is None:
        return None
    expected = own["expected_error_usd"].to_numpy(float)
    if not expected.mean():
        return None
    off = np.abs(errors(own))
    ratio = off.mean() / expected.mean()
    ratio_error = (off - ratio * expected).std(ddof=1) / math.sqrt(len(own)) / expected.mean()
    error = (now.interval.high - now.value) / MARGIN
    return _mean(now.n, ratio * now.value, math.hypot(ratio * error, now.value * ratio_error))


def mae_of_all(outcomes: pd.DataFrame, estimates: pd.DataFrame) -> Mean | None:
    """Return the mean absolute error of all products, from those whose price became known.

    Post-stratified (Holt and Smith 1979): within each fifth of the estimates, those whose price is
    known stand for the others, so that it does no harm if cheap products sell sooner. It does where
    what is priced too high does not sell.

    Args:
        outcomes: products whose price is known.
        estimates: all of them; the mean is over these.
    """
    own = outcomes[outcomes["fallback"] == 0]
    every = estimates.loc[estimates["fallback"] == 0, "estimate_usd"].to_numpy(float)
    if not len(every):
        return None
    edges = np.quantile(every, np.arange(1, FIFTHS) / FIFTHS)
    shares = np.bincount(np.searchsorted(edges, every), minlength=FIFTHS) / len(every)
    place = np.searchsorted(edges, own["estimate_usd"].to_numpy(float))
    off = np.abs(errors(own))
    value = variance = 0.0
    for fifth in range(FIFTHS):
        those = off[place == fifth]
        if not shares[fifth]:
            continue
        if len(those) < FEWEST_IN_FIFTH:
            return None
        value += shares[fifth] * those.mean()
        variance += shares[fifth] ** 2 * those.var(ddof=1) / len(those)
    return _mean(len(own), float(value), math.sqrt(variance))
