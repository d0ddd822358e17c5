"""The charts of a run: of its predictions against the truth, and of its training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from pricer.judging.evaluation import Evaluation
from pricer.judging.figures import BLUE, GREY, new_figure, save_figure
from pricer.judging.leaderboard import Row
from pricer.judging.metrics import calibration_curve, risk_coverage, running_mean
from pricer.judging.paired import Interval
from pricer.tables import interval_text, usd

# safe for colour-blind readers; shape tells the same as colour
VERDICTS = {"green": ("#009e73", "o"), "orange": ("#e69f00", "^"), "red": ("#d55e00", "x")}
PLOTTED = 1000  # products in the data of a plot: evenly thinned out, `dvc plots` draws each point


@dataclass(frozen=True)
class Bar:
    """A mean absolute error (USD) in a chart; without an interval it is a published one, grey."""

    label: str
    mae: float
    interval: Interval | None
    tuned: bool = False


@dataclass(frozen=True)
class Drawing:
    """What the charts of a run show.

    Attributes:
        evaluation: what was measured.
        leaderboard: every predictor, the best first.
        curves: training's own, by name: step and a column of that name.
    """

    evaluation: Evaluation
    leaderboard: list[Row]
    curves: dict[str, pd.DataFrame]

    @property
    def products(self) -> pd.DataFrame:
        """The tuned model's predictions."""
        return self.evaluation.products


@dataclass(frozen=True)
class Chart:
    """A figure of a run, and its data for `dvc plots` where these are drawn there too."""

    title: str
    draw: Callable[[Drawing], Figure]
    data: Callable[[Drawing], pd.DataFrame] | None = None


def _verdict_points(axes: Axes, x: ArrayLike, y: ArrayLike, verdicts: ArrayLike) -> None:
    x, y, verdicts = np.asarray(x), np.asarray(y), np.asarray(verdicts)
    for name, (color, marker) in VERDICTS.items():
        rows = verdicts == name
        label = f"{name} {rows.mean():.0%}"
        axes.scatter(x[rows], y[rows], s=16, c=color, marker=marker, alpha=0.75, label=label)


def intervals(path: Path, bars: list[Bar], title: str) -> None:
    """Draw mean absolute errors with their 95% intervals, the first one on top."""
    save_figure(_bars(bars, title), path)


def _bars(bars: list[Bar], title: str, floor_mae: float | None = None) -> Figure:
    figure, axes = new_figure(title, "mean absolute error (USD)", "")
    # inches: whatever the bars are called, there is room for them
    longest = max(len(bar.label) for bar in bars)
    figure.set_size_inches(max(6.4, 3 + 0.085 * longest), 1.2 + 0.32 * len(bars))
    for place, bar in enumerate(reversed(bars)):
        if bar.interval is None:
            axes.plot(bar.mae, place, "D", color=GREY, markersize=5)
        else:
            axes.plot([bar.interval.low, bar.interval.high], [place, place], color=BLUE)
            axes.plot(bar.mae, place, "s" if bar.tuned else "o", color=BLUE, markersize=7)
    axes.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
    for label, bar in zip(axes.get_yticklabels(), reversed(bars), strict=True):
        label.set_color("black" if bar.interval else GREY)
        label.set_fontweight("bold" if bar.tuned else "normal")
    if floor_mae is not None:
        axes.axvline(floor_mae, color="black", linestyle="--", linewidth=1, label="floor")
        axes.legend(frameon=False, loc="upper right")
    axes.set_xlim(left=0)
    return figure


def _headline(drawing: Drawing) -> str:
    score = drawing.evaluation.scores["tuned"]
    interval = score.intervals["mae"]
    told = interval_text(interval.low, interval.high)
    return f"Tuned model: MAE {usd(score.values['mae'])} (95% {told}), n = {score.n:,}"


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[:: -(-len(table) // PLOTTED)]


def draw_leaderboard(drawing: Drawing) -> Figure:
    """Draw the mean absolute error of every predictor with its 95% interval, the best on top."""
    title = f"Every predictor on {len(drawing.products):,} products"
    bars = [
        Bar(
            row.label,
            row.mae,
            row.score.intervals["mae"] if row.score else None,
            tuned=row.name == "tuned",
        )
        for row in drawing.leaderboard
    ]
    return _bars(bars, title, drawing.evaluation.floor_mae)


def leaderboard_data(drawing: Drawing) -> pd.DataFrame:
    """Return what `draw_leaderboard` shows, in an order that is the same in every run."""
    return pd.DataFrame(
        {"predictor": name, "mae_usd": score.values["mae"]}
        for name, score in drawing.evaluation.scores.items()
    )


def draw_scatter(drawing: Drawing) -> Figure:
    """Draw predictions against true prices, in the reference recipe's colours, with y = x."""
    products = drawing.products
    figure, axes = new_figure(
        _headline(drawing), "true price (USD)", "predicted price (USD)", square=True
    )
    top = float(products[["price", "estimate_usd"]].to_numpy().max()) * 1.03 + 1
    axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1, label="y = x")
    _verdict_points(axes, products["price"], products["estimate_usd"], products["verdict"])
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    return figure


def scatter_data(drawing: Drawing) -> pd.DataFrame:
    """Return what `draw_scatter` and `draw_residuals` show, and of which products."""
    shown = _thinned(drawing.products)
    return pd.DataFrame(
        {
            "id": shown["id"],
            "truth_usd": shown["price"],
            "estimate_usd": shown["estimate_usd"],
            "y_is_x": shown["price"],
            "error_usd": shown["error_usd"],
            "verdict": shown["verdict"],
        }
    )


def draw_residuals(drawing: Drawing) -> Figure:
    """Draw estimate less truth against the true price, in the reference recipe's colours."""
    products = drawing.products
    title = "Tuned model: signed errors"
    figure, axes = new_figure(title, "true price (USD)", "estimate less truth (USD)")
    axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
    _verdict_points(axes, products["price"], products["error_usd"], products["verdict"])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_running_error(drawing: Drawing) -> Figure:
    """Draw the mean absolute error over the first k products with its 95% band."""
    mean, half = running_mean(drawing.products["error_usd"].abs())
    count = np.arange(1, len(mean) + 1)
    figure, axes = new_figure(_headline(drawing), "products", "mean absolute error (USD)")
    axes.fill_between(count, mean - half, mean + half, color=BLUE, alpha=0.2, label="95% band")
    axes.plot(count, mean, color=BLUE)
    axes.set_xlim(1, max(len(mean), 2))
    axes.set_ylim(0, float((mean + half)[len(mean) // 20 :].max()) * 1.1 + 1)
    axes.legend(frameon=False)
    return figure


def running_error_data(drawing: Drawing) -> pd.DataFrame:
    """Return what `draw_running_error` shows."""
    mean, half = running_mean(drawing.products["error_usd"].abs())
    return _thinned(
        pd.DataFrame(
            {
                "products": np.arange(1, len(mean) + 1),
                "mae_usd": mean,
                "low_usd": mean - half,
                "high_usd": mean + half,
            }
        )
    )


def draw_slices(drawing: Drawing, kind: str) -> Figure:
    """Draw the tuned model's mean absolute error of each group with its 95% interval."""
    bars = [
        Bar(f"{group} (n = {score.n})", score.values["mae"], score.intervals["mae"])
        for group, score in drawing.evaluation.slices[kind]["tuned"].items()
    ]
    return _bars(bars, f"Tuned model: error by {kind}")


def slices_data(drawing: Drawing, kind: str) -> pd.DataFrame:
    """Return what `draw_slices` shows."""
    return pd.DataFrame(
        {kind: group, "mae_usd": score.values["mae"]}
        for group, score in drawing.evaluation.slices[kind]["tuned"].items()
    )


def draw_calibration(drawing: Drawing) -> Figure:
    """Draw the share of products below the predicted quantile of each level, with y = x."""
    levels, shares = calibration_curve(drawing.products["pit"])
    title = f"Predicted quantiles before calibration (n = {len(drawing.products)})"
    figure, axes = new_figure(title, "level of the quantile", "share of prices below", square=True)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="honest")
    axes.plot(levels, shares, color=BLUE, label="tuned model")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    return figure


def calibration_data(drawing: Drawing) -> pd.DataFrame:
    """Return what `draw_calibration` shows."""
    levels, shares = calibration_curve(drawing.products["pit"])
    return pd.DataFrame({"level": levels, "share_below": shares, "ideal": levels})


def draw_interval_widths(drawing: Drawing) -> Figure:
    """Draw the calibrated 80% interval of each product, in the order of its median."""
    table = drawing.products.sort_values("median", kind="stable").reset_index(drop=True)
    inside = table["price"].between(table["low_80"], table["high_80"])
    title = f"Calibrated 80% intervals: {inside.mean():.0%} of {len(table)} prices inside"
    figure, axes = new_figure(title, "product, by median estimate", "price (USD)")
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
    return figure


def interval_widths_data(drawing: Drawing) -> pd.DataFrame:
    """Return the widths of the intervals that `draw_interval_widths` shows."""
    shown = _thinned(drawing.products)
    widths = {"estimate_usd": shown["median"], "width_80_usd": shown["high_80"] - shown["low_80"]}
    return pd.DataFrame(widths)


def draw_risk_coverage(drawing: Drawing) -> Figure:
    """Draw the errors against the share of products answered, the least sure left out first."""
    told = risk_coverage(drawing.products)
    title = f"Tuned model: the surest answers (n = {len(drawing.products):,})"
    figure, left = new_figure(title, "share of products answered", "mean absolute error (USD)")
    right = left.twinx()
    right.set_ylabel("median absolute percentage error")
    right.spines["top"].set_visible(False)
    shares = told["share_answered"]
    drawn = [
        *left.plot(shares, told["mae_usd"], color=BLUE, label="mean absolute error (left)"),
        *right.plot(
            shares,
            told["median_ape"],
            color=VERDICTS["red"][0],
            linestyle="--",
            label="median percentage error (right)",
        ),
    ]
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    for axis in (left.xaxis, right.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(handles=drawn, frameon=False, loc="lower right")
    return figure


def risk_coverage_data(drawing: Drawing) -> pd.DataFrame:
    """Return what `draw_risk_coverage` shows."""
    return risk_coverage(drawing.products)


def draw_losses(drawing: Drawing) -> Figure:
    """Draw training and validation loss by step."""
    train, validation = (drawing.curves[name] for name in CURVES)
    figure, axes = new_figure("Training", "step", "cross-entropy per completion token")
    axes.plot(train["step"], train["train_loss"], color=BLUE, linewidth=1, label="training")
    axes.plot(
        validation["step"],
        validation["validation_loss"],
        color=VERDICTS["red"][0],
        marker="s",
        label="validation",
    )
    axes.legend(frameon=False)
    return figure


CURVES = ("train_loss", "validation_loss")

# in the order of the report; a figure is `metrics/charts/NAME.png`, data `metrics/plots/NAME.json`
CHARTS = {
    "leaderboard": Chart(
        "Mean absolute error of every predictor, with its 95% interval",
        draw_leaderboard,
        leaderboard_data,
    ),
    "scatter": Chart("Predicted against true prices", draw_scatter, scatter_data),
    "residuals": Chart("Signed errors against true prices", draw_residuals),
    "running_error": Chart(
        "Mean absolute error over the first products, with its 95% band",
        draw_running_error,
        running_error_data,
    ),
    **{
        f"error_by_{kind}": Chart(
            f"Error by {kind}", partial(draw_slices, kind=kind), partial(slices_data, kind=kind)
        )
        for kind in ("price", "category", "similarity")
    },
    "calibration": Chart(
        "Predicted quantiles against the share of prices below them",
        draw_calibration,
        calibration_data,
    ),
    "interval_widths": Chart(
        "Calibrated 80% intervals", draw_interval_widths, interval_widths_data
    ),
    "risk_coverage": Chart(
        "Error against the share of products answered, the least sure left out first",
        draw_risk_coverage,
        risk_coverage_data,
    ),
    "losses": Chart("Losses while training", draw_losses),
}


def draw_charts(folder: Path, drawing: Drawing) -> None:
    """Draw every chart of CHARTS into `folder`."""
    for name, chart in CHARTS.items():
        save_figure(chart.draw(drawing), folder / f"{name}.png")


def plot_data(drawing: Drawing) -> dict[str, pd.DataFrame]:
    """Return the data of each chart that has them for `dvc plots`, USD, by the chart's name."""
    return {name: chart.data(drawing) for name, chart in CHARTS.items() if chart.data}
