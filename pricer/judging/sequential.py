"""Intervals that hold at every look: an experiment may be watched while it runs.

An interval for one look finds, looked at every hour, differences that are not there. These hold at
all times at once: asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
2024, "Time-uniform central limit theory and asymptotic confidence sequences", theorem 2.2).
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from pricer.judging.paired import CONFIDENCE, Gap, Interval

TUNED_FOR = 1_000  # products: they are narrowest there, and wider anywhere else
FEWEST = 50  # of each: what is asymptotic says nothing of fewer


def paired_gap(losses: ArrayLike, others: ArrayLike) -> Gap | None:
    """Return the mean loss less another one on the same products, at any look.

    Args:
        losses: (n,) of one predictor.
        others: (n,) of another on the same products.

    Returns:
        None for fewer than FEWEST products.
    """
    differences = np.asarray(losses, dtype=float) - np.asarray(others, dtype=float)
    n = len(differences)
    if n < FEWEST:
        return None
    return _gap(float(differences.mean()), float(differences.var(ddof=1)), n)


def unpaired_gap(losses: ArrayLike, others: ArrayLike) -> Gap | None:
    """Return the mean loss less that of another predictor on other products, at any look.

    The products are one random sample, parted at random: the difference of means is the mean of
    its influence function over all of them, whose variance is s² / p + s'² / (1 - p), with p the
    share of the first part.

    Args:
        losses: (n,) of one predictor.
        others: (m,) of another.

    Returns:
        None for fewer than FEWEST products of either.
    """
    first, second = (np.asarray(values, dtype=float) for values in (losses, others))
    if min(len(first), len(second)) < FEWEST:
        return None
    n = len(first) + len(second)
    # a small part that has not met its rare large losses yet looks surer of its mean than it is
    least = (first.var(ddof=1) * len(first) + second.var(ddof=1) * len(second)) / n
    variances = [max(part.var(ddof=1), least) / len(part) for part in (first, second)]
    variance = n * sum(variances)
    return _gap(float(first.mean() - second.mean()), float(variance), n)


def _gap(mean: float, variance: float, n: int) -> Gap:
    margin = math.sqrt(variance) * boundary(n)
    return Gap(n, mean, Interval(mean - margin, mean + margin))


def boundary(n: int) -> float:
    """Return how many standard deviations the mean of n values may be off, at every look.

    Source: equation 7 of the paper above, rho by its equation 9 for TUNED_FOR.
    """
    alpha = 1 - CONFIDENCE
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / TUNED_FOR
    scaled = n * rho2 + 1
    return math.sqrt(2 * scaled / (n * n * rho2) * math.log(math.sqrt(scaled) / alpha))
