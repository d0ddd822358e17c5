"""Figures of the token counts and of predictions against the truth."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pricer.files import writing
from pricer.metrics import calibration_curve, running_mean

matplotlib.use("Agg")

# safe for colour-blind readers; shape tells the same as colour
VERDICTS = {"green": ("#009e73", "o"), "orange": ("#e69f00", "^"), "red": ("#d55e00", "x")}
BLUE, GREY = "#0072b2", "#777777"


def _figure(title: str, x: str, y: str, *, square: bool = False) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 6.0) if square else (6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with writing(path) as partial:
        # no software version: the same data give the same bytes after an upgrade, too
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})


def token_histogram(path: Path, tokens: ArrayLike, *, limit: int, title: str) -> None:
    """Draw how many texts have how many tokens, with the limit they are held to."""
    counts = np.asarray(tokens)
    figure, axes = _figure(f"{title} (n = {len(counts):,})", "tokens", "texts")
    # a few very long texts would squeeze all others into one bar
    top = max(limit * 2, 1)
    axes.hist(np.minimum(counts, top), bins=min(60, top), color=BLUE)
    axes.axvline(limit, color="black", linestyle="--", label=f"limit {limit}")
    above = int((counts > top).sum())
    if above:
        axes.set_xlabel(f"tokens ({above:,} texts of more than {top} counted at {top})")
    axes.legend(frameon=False)
    _save(figure, path)


def scatter(path: Path, truth: ArrayLike, guess: ArrayLike, colors: ArrayLike, title: str) -> None:
    """Draw predictions against true prices, in the reference recipe's colours, with y = x."""
    truth, guess, colors = np.asarray(truth), np.asarray(guess), np.asarray(colors)
    figure, axes = _figure(title, "true price (USD)", "predicted price (USD)", square=True)
    top = float(np.percentile(np.concatenate([truth, guess]), 100)) * 1.03 + 1
    axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1, label="y = x")
    for name, (color, marker) in VERDICTS.items():
        rows = colors == name
        label = f"{name} {rows.mean():.0%}"
        axes.scatter(
            truth[rows], guess[rows], s=16, c=color, marker=marker, alpha=0.75, label=label
        )
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def running_error(path: Path, absolute_errors: ArrayLike, title: str) -> None:
    """Draw the mean absolute error over the first k products with its 95% band."""
    mean, half = running_mean(absolute_errors)
    count = np.arange(1, len(mean) + 1)
    figure, axes = _figure(title, "products", "mean absolute error (USD)")
    axes.fill_between(count, mean - half, mean + half, color=BLUE, alpha=0.2, label="95% band")
    axes.plot(count, mean, color=BLUE)
    axes.set_xlim(1, max(len(mean), 2))
    axes.set_ylim(0, float((mean + half)[len(mean) // 20 :].max()) * 1.1 + 1)
    axes.legend(frameon=False)
    _save(figure, path)


def calibration(path: Path, pit: ArrayLike) -> None:
    """Draw the share of products below the predicted quantile of each level, with y = x."""
    levels, shares = calibration_curve(pit)
    title = f"Predicted quantiles before calibration (n = {len(np.asarray(pit))})"
    figure, axes = _figure(title, "level of the quantile", "share of prices below", square=True)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="honest")
    axes.plot(levels, shares, color=BLUE, label="tuned model")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def interval_widths(path: Path, predictions: pd.DataFrame) -> None:
    """Draw the calibrated 80% interval of each product, in the order of its median."""
    table = predictions.sort_values("median", kind="stable").reset_index(drop=True)
    inside = table["price"].between(table["low_80"], table["high_80"])
    title = f"Calibrated 80% intervals: {inside.mean():.0%} of {len(table)} prices inside"
    figure, axes = _figure(title, "product, by median estimate", "price (USD)")
    axes.fill_between(
        table.index, table["low_80"], table["high_80"], color=BLUE, alpha=0.2, label="interval"
    )
    axes.plot(table.index, table["median"], color=BLUE, linewidth=1, label="median")
    for name, rows in (("green", inside), ("red", ~inside)):
        color, marker = VERDICTS[name]
        label = f"price {'inside' if name == 'green' else 'outside'}"
        axes.scatter(
            table.index[rows], table["price"][rows], s=10, c=color, marker=marker, label=label
        )
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)
