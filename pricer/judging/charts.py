"""Figures of token counts, of training, and of predictions against the truth."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pricer.files import writing
from pricer.judging.metrics import calibration_curve, running_mean

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a dollar sign is a dollar sign
# names of products' categories may be in any script; a box in their place is no reason to worry
warnings.filterwarnings("ignore", message="Glyph .* missing from font")

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


def _verdict_points(axes: Axes, x: ArrayLike, y: ArrayLike, verdicts: ArrayLike) -> None:
    x, y, verdicts = np.asarray(x), np.asarray(y), np.asarray(verdicts)
    for name, (color, marker) in VERDICTS.items():
        rows = verdicts == name
        label = f"{name} {rows.mean():.0%}"
        axes.scatter(x[rows], y[rows], s=16, c=color, marker=marker, alpha=0.75, label=label)


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
    truth, guess = np.asarray(truth), np.asarray(guess)
    figure, axes = _figure(title, "true price (USD)", "predicted price (USD)", square=True)
    top = float(np.percentile(np.concatenate([truth, guess]), 100)) * 1.03 + 1
    axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1, label="y = x")
    _verdict_points(axes, truth, guess, colors)
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


def leaderboard(path: Path, rows: list[dict[str, Any]], floor_mae: float | None, n: int) -> None:
    """Draw the mean absolute error of every predictor with its 95% interval, the best on top.

    Args:
        path: the PNG file.
        rows: label, mae, mae_ci_low and mae_ci_high (USD), best first; rows with `published` are
            published scores on other products: grey, without an interval.
        floor_mae: error of a perfect predictor, USD, where it is known.
        n: products.
    """
    figure, axes = _figure(f"Every predictor on {n:,} products", "mean absolute error (USD)", "")
    figure.set_figheight(1.2 + 0.32 * len(rows))
    for place, row in enumerate(reversed(rows)):
        if row["published"]:
            axes.plot(row["mae"], place, "D", color=GREY, markersize=5)
        else:
            axes.plot([row["mae_ci_low"], row["mae_ci_high"]], [place, place], color=BLUE)
            marker = "s" if row["name"] == "tuned" else "o"
            axes.plot(row["mae"], place, marker, color=BLUE, markersize=7)
    axes.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)])
    for label, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
        label.set_color(GREY if row["published"] else "black")
        label.set_fontweight("bold" if row["name"] == "tuned" else "normal")
    if floor_mae is not None:
        axes.axvline(floor_mae, color="black", linestyle="--", linewidth=1, label="floor")
        axes.legend(frameon=False, loc="upper right")
    axes.set_xlim(left=0)
    _save(figure, path)


def slices(path: Path, groups: dict[str, dict[str, Any]], kind: str) -> None:
    """Draw the mean absolute error of each group with its 95% interval."""
    named = {f"{name} (n = {own['n']})": own for name, own in groups.items()}
    intervals(path, named, f"Tuned model: error by {kind}")


def intervals(path: Path, rows: dict[str, dict[str, Any]], title: str) -> None:
    """Draw mean absolute errors with their 95% intervals, the first row on top.

    Args:
        path: the PNG file.
        rows: mae, mae_ci_low and mae_ci_high (USD) by label.
        title: of the figure.
    """
    figure, axes = _figure(title, "mean absolute error (USD)", "")
    figure.set_figheight(1.2 + 0.32 * len(rows))
    for place, own in enumerate(reversed(rows.values())):
        axes.plot([own["mae_ci_low"], own["mae_ci_high"]], [place, place], color=BLUE)
        axes.plot(own["mae"], place, "o", color=BLUE, markersize=7)
    axes.set_yticks(range(len(rows)), list(reversed(rows)))
    axes.set_xlim(left=0)
    _save(figure, path)


def residuals(path: Path, truth: ArrayLike, guess: ArrayLike, colors: ArrayLike) -> None:
    """Draw estimate less truth against the true price, in the reference recipe's colours."""
    error = np.asarray(guess) - np.asarray(truth)
    figure, axes = _figure(
        "Tuned model: signed errors", "true price (USD)", "estimate less truth (USD)"
    )
    axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
    _verdict_points(axes, truth, error, colors)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, loc="lower left")
    _save(figure, path)


def losses(path: Path, train: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Draw training and validation loss by step.

    Args:
        path: the PNG file.
        train: step and train_loss.
        validation: step and validation_loss.
    """
    figure, axes = _figure("Training", "step", "cross-entropy per completion token")
    axes.plot(train["step"], train["train_loss"], color=BLUE, linewidth=1, label="training")
    axes.plot(
        validation["step"],
        validation["validation_loss"],
        color=VERDICTS["red"][0],
        marker="s",
        label="validation",
    )
    axes.legend(frameon=False)
    _save(figure, path)
