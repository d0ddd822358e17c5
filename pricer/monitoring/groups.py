"""How far off estimates are, over time and by kind of product."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.judging.metrics import category_groups, price_bands
from pricer.monitoring.errors import Mean, expected_mae, mae_of_all, realised
from pricer.monitoring.observed import Observed

MOST_WINDOWS = 200


@dataclass(frozen=True)
class Group:
    """Figures of a part of the products.

    Attributes:
        name: of the part.
        estimates: how many it has.
        outcomes: of how many the price is known.
        figures: see `figures`; those that there are enough products for.
    """

    name: str
    estimates: int
    outcomes: int
    figures: dict[str, Mean]


def figures(
    reference: pd.DataFrame, estimates: pd.DataFrame, outcomes: pd.DataFrame
) -> dict[str, Mean]:
    """Return expected_mae, mae, mae_all, bias and coverage_80, see `pricer.monitoring.errors`.

    Args:
        reference: products of the reference whose price is known.
        estimates: of the period.
        outcomes: of the period.
    """
    told = {
        "expected_mae": expected_mae(reference, estimates),
        **realised(outcomes),
        "mae_all": mae_of_all(outcomes, estimates),
    }
    return {name: one for name, one in told.items() if one}


def over_time(reference: Observed, period: Observed, window: timedelta) -> list[Group]:
    """Return the figures of each window that has estimates or outcomes, the oldest first.

    An estimate is in the window in which it was made, an outcome in that in which it came. Windows
    end with the newest of all; the newest MOST_WINDOWS are told.
    """
    tables = (period.estimates, period.outcomes)
    newest = pd.concat([table["at"] for table in tables]).max()
    if pd.isna(newest):
        return []
    step = pd.Timedelta(window)
    # how many windows ago; the newest moment is the end of the last one
    ago = [((newest - table["at"]) // step).to_numpy() for table in tables]
    there = np.unique(np.concatenate(ago).astype(float))
    groups = []
    for number in there[~np.isnan(there)][:MOST_WINDOWS][::-1]:
        name = f"{newest - (number + 1) * step:%Y-%m-%d %H:%M}"
        groups.append(_group(name, reference, tables, [one == number for one in ago]))
    return groups


def by_category(reference: Observed, period: Observed) -> list[Group]:
    """Return the figures of the largest categories, and of the rest together."""
    both = pd.concat([period.estimates["category"], period.outcomes["category"]])
    if both.isna().all():
        return []
    named = category_groups(both.fillna("").to_numpy(object))
    return _by(named, reference, period)


def by_estimate(reference: Observed, period: Observed) -> list[Group]:
    """Return the figures by band of what products are estimated at, which needs no outcome."""
    both = pd.concat([period.estimates["estimate_usd"], period.outcomes["estimate_usd"]])
    return _by(price_bands(both), reference, period)


def _by(named: pd.Categorical, reference: Observed, period: Observed) -> list[Group]:
    tables, count = (period.estimates, period.outcomes), len(period.estimates)
    labels = np.asarray(named, dtype=object)
    return [
        _group(str(name), reference, tables, [labels[:count] == name, labels[count:] == name])
        for name in named.categories
        if (labels == name).any()
    ]


def _group(
    name: str,
    reference: Observed,
    tables: Iterable[pd.DataFrame],
    chosen: Iterable[NDArray[np.bool_]],
) -> Group:
    estimates, outcomes = (table[rows] for table, rows in zip(tables, chosen, strict=True))
    told = figures(reference.outcomes, estimates, outcomes)
    return Group(name, len(estimates), len(outcomes), told)
