"""Charts of a monitoring report."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pricer.judging.figures import BLUE, GREY, new_figure
from pricer.monitoring.groups import Group
from pricer.prices.predictions import QUANTILES

Floats = NDArray[np.float64]


def draw_over_time(windows: list[Group]) -> Figure:
    """Draw the error of each window, as the model expected it and as it came out."""
    figure, axes = new_figure("Mean absolute error over time", "window that begins", "USD")
    for name, label, color in (
        ("expected_mae", "expected", GREY),
        ("mae", "of products with an outcome", BLUE),
    ):
        places = [place for place, one in enumerate(windows) if name in one.figures]
        means = [windows[place].figures[name] for place in places]
        if not means:
            continue
        values = [one.value for one in means]
        ends = [
            [one.value - one.interval.low for one in means],
            [one.interval.high - one.value for one in means],
        ]
        axes.errorbar(places, values, ends, fmt="o-", color=color, label=label, capsize=3)
    shown = range(0, len(windows), max(1, len(windows) // 6))
    axes.set_xticks(list(shown), [windows[place].name[:10] for place in shown])
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def draw_values(title: str, reference: Floats, period: Floats) -> Figure:
    """Draw what share of the values lies below each value, in the reference and in the period."""
    figure, axes = new_figure(title[:1].upper() + title[1:], title, "share below")
    for values, label, color in ((reference, "reference", GREY), (period, "period", BLUE)):
        known = np.sort(values[~np.isnan(values)])
        axes.step(known, np.arange(1, len(known) + 1) / len(known), color=color, label=label)
    axes.legend(frameon=False)
    return figure


def draw_ranks(reference: Floats, period: Floats) -> Figure:
    """Draw how often prices lie between the model's quantiles, over how often they should."""
    ends = [0, *QUANTILES, 100]
    should = np.diff(ends) / 100
    figure, axes = new_figure(
        "Where prices lie in the model's distributions", "quantiles, percent", "share over expected"
    )
    places = np.arange(len(should))
    for values, label, color, side in (
        (reference, "reference", GREY, -0.2),
        (period, "period", BLUE, 0.2),
    ):
        known = values[~np.isnan(values)].astype(int)
        if len(known):
            found = np.bincount(known, minlength=len(should)) / len(known)
            axes.bar(places + side, found / should, width=0.4, color=color, label=label)
    axes.axhline(1, color="black", linestyle="--")
    pairs = zip(ends, ends[1:], strict=False)
    axes.set_xticks(places, [f"{low} to {high}" for low, high in pairs])
    _legend(axes)
    return figure


def _legend(axes: Axes) -> None:
    """Name what is drawn, if anything is: the library warns of nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
