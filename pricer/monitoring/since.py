"""When something began: the change point of a yes or no, with its interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

MOST = 10_000  # products that are looked at: evenly thinned out
RESAMPLES = 200


@dataclass(frozen=True)
class Since:
    """A place among the products of a period, in their order.

    Attributes:
        place: of the first product after the change; 0 where it came before the period.
        low: lower end of its 95% interval.
        high: upper end.
    """

    place: int
    low: int
    high: int


def since(reference: Bools, period: Bools, seed: int) -> Since:
    """Return from where on the share of a period's products differs from that before.

    The reference stands before the period. Where the cumulative sum is farthest from that of no
    change (CUSUM, weighted as a likelihood ratio is: Csörgő and Horváth 1997), with the 95%
    percentile interval of that place in samples drawn from both sides of it.

    Args:
        reference: (m,) values, in any order.
        period: (n,) values in the order they came.
        seed: of the samples.
    """
    every = max(len(period) // MOST, 1)
    values = np.concatenate([reference[:MOST], period[::every]])
    m, n = min(len(reference), MOST), len(values)
    place = _place(values, m)
    rng = np.random.default_rng(seed)
    chance = np.where(np.arange(n) < place, values[:place].mean(), values[place:].mean())
    drawn = [_place(rng.random(n) < chance, m) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Since(*(int(one - m) * every for one in (place, low, high)))


def _place(values: Bools, m: int) -> int:
    """Return the likeliest change point, at m at the earliest."""
    n = len(values)
    before = np.arange(1, n)
    sums = values.cumsum()
    apart = np.abs(sums[:-1] - before / n * sums[-1]) / np.sqrt(before * (n - before))
    return m + int(apart[m - 1 :].argmax())
