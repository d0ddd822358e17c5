"""Whether two samples of a number come from one distribution, with an exact false alarm rate.

The distance is that of Kolmogorov and Smirnov between the two empirical distribution functions, at
CUTS quantiles of both together; of yes and no, it is the difference of the two shares. How large it
gets by chance, dealing all values anew into two samples of their sizes tells: a permutation test,
exact for values that are exchangeable, whatever their distribution. Dealing ends early where chance
is soon seen to reach the distance (Besag and Clifford 1991, "Sequential Monte Carlo p-values"), so
that what has not shifted costs little.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

FEWEST = 20  # values on either side
CUTS = 32  # of the range; finer ones find hardly more and take longer
REACHED = 10  # deals with a distance as large, after which dealing ends
BATCH = 2_000_000  # values held at once while dealing


@dataclass(frozen=True)
class Shift:
    """What the comparison of a number in two samples says.

    Attributes:
        n: values of the period.
        n_reference: of the reference.
        distance: largest difference of the shares at or below a value, 0 to 1.
        cut: the value where it is largest.
        more_above: whether the period has more values above it.
        p_value: share of deals with a distance as large.
    """

    n: int
    n_reference: int
    distance: float
    cut: float
    more_above: bool
    p_value: float


def shift(reference: Floats, period: Floats, alpha: float, seed: int) -> Shift | None:
    """Compare a number in two samples.

    Args:
        reference: (m,) values; NaN, where there is none, is left out.
        period: (n,) likewise.
        alpha: the p-value that decides; smaller ones are not told apart.
        seed: of the deals.

    Returns:
        None where either has fewer than FEWEST values.
    """
    reference, period = _known(reference), _known(period)
    if min(len(reference), len(period)) < FEWEST:
        return None
    both = np.concatenate([reference, period])
    cuts = np.unique(np.quantile(both, np.arange(1, CUTS) / CUTS, method="inverted_cdf"))
    cuts = np.append(cuts[cuts < both.max()], both.max())
    counts, counts_reference = (_counts(values, cuts) for values in (period, reference))
    above = _shares(counts_reference) - _shares(counts)
    place = int(np.abs(above).argmax())
    return Shift(
        n=len(period),
        n_reference=len(reference),
        distance=float(np.abs(above[place])),
        cut=float(cuts[place]),
        more_above=bool(above[place] > 0),
        p_value=_p_value(counts_reference, counts, alpha, np.random.default_rng(seed)),
    )


def _counts(values: Floats, cuts: Floats) -> Counts:
    """Return how many values are at or below each cut and above the one before."""
    return np.bincount(cuts.searchsorted(values), minlength=len(cuts))


def _shares(counts: Counts) -> Floats:
    """Return the share of values at or below each cut."""
    return np.asarray(counts.cumsum(axis=-1) / counts.sum(axis=-1, keepdims=True), dtype=float)


def _p_value(reference: Counts, period: Counts, alpha: float, rng: np.random.Generator) -> float:
    pool, n, m = reference + period, int(period.sum()), int(reference.sum())
    whole = pool.cumsum()
    # distances are compared as whole numbers: the same deal has the same one
    observed = np.abs(period.cumsum() * (n + m) - whole * n).max()
    deals, reached = math.ceil(REACHED / alpha) - 1, 0
    done, step = 0, 100
    while done < deals:
        size = min(step, deals - done, max(BATCH // len(pool), 1))
        dealt = rng.multivariate_hypergeometric(pool, n, size=size, method="marginals")
        distances = np.abs(dealt.cumsum(axis=1) * (n + m) - whole * n).max(axis=1)
        as_large = np.flatnonzero(distances >= observed)
        if reached + len(as_large) >= REACHED:
            return REACHED / (done + int(as_large[REACHED - reached - 1]) + 1)
        reached += len(as_large)
        done, step = done + size, step * 4
    return (reached + 1) / (deals + 1)


def wasserstein(reference: Floats, period: Floats) -> float:
    """Return the mean distance between values of the same rank in two samples, in their unit.

    Args:
        reference: (m,) values; NaN is left out.
        period: (n,) likewise.
    """
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(_known(reference), _known(period)))


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]
