"""Scores in dollars: pure NumPy, the headline ones with a bootstrap interval."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricer.escaping import shortened
from pricer.judging.paired import (
    Bootstrap,
    Gap,
    Score,
    mean_intervals,
    paired_gaps,
    percentile_interval,
    resampled_means,
)
from pricer.prices.distribution import KINDS

Floats = NDArray[np.float64]

BAND_EDGES = [0, 25, 100, 250, np.inf]  # USD, of the true price; a band holds its lower edge
BANDS = ["under $25", "$25 to $100", "$100 to $250", "$250 and over"]
# of the cosine with the nearest training product; a band holds its lower edge
SIMILARITY_EDGES = [0, 0.2, 0.3, 0.5, 0.7, np.inf]
SIMILARITIES = ["below 0.2", "0.2 to 0.3", "0.3 to 0.5", "0.5 to 0.7", "0.7 and up"]
LARGEST_CATEGORIES = 12  # told one by one, the rest together
OTHER = "all others"
LONGEST_NAME = 28  # characters of a category in charts and tables


def mae(y_true: Floats, y_pred: Floats) -> float:
    """Mean absolute error, USD."""
    return float(np.abs(y_pred - y_true).mean())


def mse(y_true: Floats, y_pred: Floats) -> float:
    """Mean squared error, USD squared."""
    return float(np.square(y_pred - y_true).mean())


def r2(y_true: Floats, y_pred: Floats) -> float:
    """Coefficient of determination: 1 is perfect, 0 is no better than the mean of `y_true`.

    A constant truth has no variance to explain: 1 for a perfect prediction of it, else 0.
    """
    residual = float(np.square(y_pred - y_true).sum())
    total = float(np.square(y_true - y_true.mean()).sum())
    if total == 0:
        return 1.0 if residual == 0 else 0.0
    return 1 - residual / total


def pinball(y_true: ArrayLike, quantiles: ArrayLike, level: float) -> float:
    """Mean quantile loss, USD, lower is better (Koenker and Bassett 1978).

    Args:
        y_true: (n,) USD.
        quantiles: (n,) USD, predicted to be above the truth with probability `level`.
        level: between 0 and 1.
    """
    short = np.asarray(y_true, dtype=float) - np.asarray(quantiles, dtype=float)
    return float(np.maximum(level * short, (level - 1) * short).mean())


def interval_score(y_true: ArrayLike, low: ArrayLike, high: ArrayLike, level: float) -> float:
    """Mean interval score, USD, lower is better: the width, and what misses cost.

    Source: Gneiting and Raftery (2007), eq. 43, for the central interval of probability `level`.
    """
    truth, low, high = (np.asarray(part, dtype=float) for part in (y_true, low, high))
    missed = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    return float((high - low + 2 / (1 - level) * missed).mean())


def coverage(y_true: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of products whose price lies within their interval, its ends included."""
    truth = np.asarray(y_true, dtype=float)
    return float(((truth >= np.asarray(low)) & (truth <= np.asarray(high))).mean())


def reference_colors(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.str_]:
    """Return the reference recipe's verdict on each product: green, orange or red.

    Green: the error is under $40 or under 20% of the truth; orange: under $80 or under 40%.
    """
    truth, guess = np.asarray(y_true, dtype=float), np.asarray(y_pred, dtype=float)
    error = np.abs(guess - truth)
    # a share of a price of zero is infinite, so only the dollars count there
    green = (error < 40) | (error < 0.2 * truth)
    orange = (error < 80) | (error < 0.4 * truth)
    return np.where(green, "green", np.where(orange, "orange", "red"))


def smape(y_true: Floats, y_pred: Floats) -> float:
    """Mean of the error as a share of the mean of price and estimate (Makridakis 1993), 0 to 2."""
    size = np.abs(y_true) + np.abs(y_pred)
    return float((2 * np.abs(y_pred - y_true) / np.where(size > 0, size, 1)).mean())


def mean_pinball(predictions: pd.DataFrame) -> float:
    """Mean of the quantile losses of the columns q05 to q95 of a predictions table, USD."""
    levels = {
        name: int(name[1:]) / 100 for name in map(str, predictions) if re.fullmatch(r"q\d\d", name)
    }
    price = predictions["price"]
    return float(np.mean([pinball(price, predictions[q], level) for q, level in levels.items()]))


def color_rate(color: str) -> Callable[[Floats, Floats], float]:
    """Return the metric that is the share of products with one of the reference's verdicts."""
    return lambda truth, guess: float((reference_colors(truth, guess) == color).mean())


@dataclass(frozen=True)
class Metric:
    """A score: its unit, its best value and what it is, for people; and the function behind it."""

    unit: str
    best: str
    description: str
    function: Callable[..., float]


# of estimates: functions of true prices and estimates, each (n,) USD
METRICS = {
    "mae": Metric("USD", "0", "mean absolute error: the headline", mae),
    "mse": Metric("USD²", "0", "mean squared error: a few large errors weigh most", mse),
    "rmse": Metric("USD", "0", "root of the mean squared error", lambda y, g: mse(y, g) ** 0.5),
    "r2": Metric(
        "share",
        "1",
        "of the variance of prices that is explained; 0 for the mean, 0 or 1 where all prices are "
        "equal (1 if all are hit)",
        r2,
    ),
    "median_ae": Metric(
        "USD",
        "0",
        "the error that half of the products stay under",
        lambda y, g: float(np.median(np.abs(g - y))),
    ),
    "p90_ae": Metric(
        "USD",
        "0",
        "the error that 90% of the products stay under",
        lambda y, g: float(np.quantile(np.abs(g - y), 0.9)),
    ),
    "median_ape": Metric(
        "share",
        "0",
        "median of the error as a share of the price; a price of nothing counts as one cent",
        lambda y, g: float(np.median(np.abs(g - y) / np.maximum(y, 0.01))),
    ),
    "smape": Metric(
        "share",
        "0",
        "error as a share of the mean of price and estimate, 0 to 2 (Makridakis 1993)",
        smape,
    ),
    "rmsle": Metric(
        "log",
        "0",
        "root mean squared error of log(1 + price): errors as ratios",
        lambda y, g: float(np.sqrt(np.square(np.log1p(np.maximum(g, 0)) - np.log1p(y)).mean())),
    ),
    "bias": Metric(
        "USD",
        "0",
        "mean of estimate less price: above 0, estimates are too high",
        lambda y, g: float((g - y).mean()),
    ),
    "hit_rate": Metric(
        "share",
        "1",
        "the reference recipe's green: within $40 or 20% of the price",
        color_rate("green"),
    ),
    "orange_rate": Metric(
        "share", "0", "its orange: not green, within $80 or 40%", color_rate("orange")
    ),
    "red_rate": Metric("share", "0", "its red: the rest", color_rate("red")),
}

# of a whole distribution: functions of a predictions table, as `read_predictions` gives it
TABLE_METRICS = {
    "unparsed_rate": Metric(
        "share",
        "0",
        "estimates that held no number and count as $0",
        lambda table: float(table["unparsed"].mean()),
    ),
    "crps": Metric(
        "USD",
        "0",
        "continuous ranked probability score of the distribution: the absolute error where the "
        "model gives one price, less where it knows what it does not know",
        lambda table: float(table["crps"].mean()),
    ),
    "pinball": Metric(
        "USD", "0", "mean quantile loss over the columns `q05` to `q95`", mean_pinball
    ),
    "price_mass": Metric(
        "probability",
        "1",
        "that a price comes next at all",
        lambda table: float(table["price_mass"].mean()),
    ),
    "dropped_mass": Metric(
        "probability",
        "0",
        "of prices whose last digit was not read",
        lambda table: float(table["dropped_mass"].mean()),
    ),
}

# of intervals of a level in percent: functions of true prices, low and high ends (USD), level
INTERVAL_METRICS = {
    "coverage_{}": Metric(
        "share",
        "the level",
        "of prices inside their calibrated interval",
        lambda y, low, high, level: coverage(y, low, high),
    ),
    "width_{}": Metric(
        "USD",
        "small",
        "mean width of these intervals",
        lambda y, low, high, level: float((high - low).mean()),
    ),
    "width_{}_median": Metric(
        "USD",
        "small",
        "median width of these intervals",
        lambda y, low, high, level: float((high - low).median()),
    ),
    "interval_score_{}": Metric(
        "USD",
        "small",
        "width plus what prices outside cost (Gneiting and Raftery 2007)",
        lambda y, low, high, level: interval_score(y, low, high, level / 100),
    ),
}


def scores(y_true: ArrayLike, y_pred: ArrayLike) -> dict[str, float]:
    """Return every score of `METRICS` of estimates.

    Args:
        y_true: (n,) USD.
        y_pred: (n,) USD.

    Raises:
        ValueError: shapes differ, or there is nothing to score.
    """
    truth, guess = np.asarray(y_true, dtype=float), np.asarray(y_pred, dtype=float)
    if truth.shape != guess.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"need two equal, non-empty vectors, got {truth.shape} and {guess.shape}")
    return {name: metric.function(truth, guess) for name, metric in METRICS.items()}


def table_scores(predictions: pd.DataFrame, levels: tuple[int, ...]) -> dict[str, float]:
    """Return the scores of `TABLE_METRICS`, and of `INTERVAL_METRICS` calibrated and `raw_`.

    Args:
        predictions: as `read_predictions` gives it.
        levels: of the intervals, percent.
    """
    result = {name: metric.function(predictions) for name, metric in TABLE_METRICS.items()}
    price = predictions["price"]
    for level in levels:
        for kind in ("", "raw_"):
            low, high = predictions[f"{kind}low_{level}"], predictions[f"{kind}high_{level}"]
            result |= {
                kind + name.format(level): metric.function(price, low, high, level)
                for name, metric in INTERVAL_METRICS.items()
            }
    return result


def evaluate(
    ids: ArrayLike, y_true: ArrayLike, predictions: dict[str, Floats], bootstrap: Bootstrap
) -> dict[str, Score]:
    """Return the scores of each predictor on the same products.

    mae, mse and r2 have 95% bootstrap intervals over products; all predictors are judged on the
    same resamples.

    Args:
        ids: (n,) of the products.
        y_true: (n,) USD.
        predictions: (n,) USD by the predictor's name.
        bootstrap: how products are drawn.
    """
    truth = np.asarray(y_true, dtype=float)
    error = np.stack([guess - truth for guess in predictions.values()], axis=1)
    centred = (truth - truth.mean())[:, None]
    columns = np.hstack([centred, np.square(centred), np.abs(error), np.square(error)])
    means = resampled_means(ids, columns, bootstrap)
    variance = means[:, 1] - np.square(means[:, 0])
    result = {}
    for place, (name, guess) in enumerate(predictions.items(), start=2):
        squared = means[:, place + len(predictions)]
        resampled = {
            "mae": means[:, place],
            "mse": squared,
            "r2": _explained(squared, variance),
        }
        intervals = {metric: percentile_interval(drawn) for metric, drawn in resampled.items()}
        result[name] = Score(len(truth), scores(truth, guess), intervals)
    return result


def _explained(squared: Floats, variance: Floats) -> Floats:
    """Return `r2` of resamples from their mean squared errors and variances of the truth."""
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = 1 - squared / variance
    return np.where(variance > 1e-12, explained, squared == 0)


@dataclass(frozen=True)
class KindScores:
    """Mean absolute error of each kind of estimate, USD, and what the median gains."""

    mae: dict[str, float]
    median_less_greedy: Gap


def kind_scores(predictions: pd.DataFrame, bootstrap: Bootstrap) -> KindScores:
    """Return the scores of each kind of estimate of a predictions table."""
    price = predictions["price"].to_numpy(float)
    losses = {kind: np.abs(predictions[kind].to_numpy(float) - price) for kind in KINDS}
    gain = {"gain": losses["median"] - losses["greedy"]}
    return KindScores(
        {kind: float(loss.mean()) for kind, loss in losses.items()},
        paired_gaps(predictions["id"], gain, bootstrap)["gain"],
    )


def price_bands(price: ArrayLike) -> pd.Categorical:
    """Return the band of each true price."""
    return pd.Categorical(pd.cut(np.asarray(price), BAND_EDGES, right=False, labels=BANDS))


def similarity_bands(similarity: ArrayLike) -> pd.Categorical:
    """Return the band of each product's similarity to the nearest training product, 0 to 1.

    NaN, where no word is shared with any, is in the lowest.
    """
    values = np.nan_to_num(np.asarray(similarity, dtype=float))
    return pd.Categorical(pd.cut(values, SIMILARITY_EDGES, right=False, labels=SIMILARITIES))


def category_groups(categories: ArrayLike) -> pd.Categorical:
    """Return each product's category where it is one of the largest, else `OTHER`.

    Long names are cut; different ones stay apart.
    """
    # no array of NumPy's own texts: each of them would take the room of the longest
    names = pd.Series(
        [" ".join(str(name).split()) or "no category" for name in np.asarray(categories, object)],
        dtype=object,
    )
    counts = names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    largest = list(counts.index[:LARGEST_CATEGORIES])
    groups = list(dict.fromkeys([*largest, OTHER]))
    by_category = dict(zip(groups, _group_names(groups), strict=True))
    return pd.Categorical(
        names.where(names.isin(largest), OTHER).map(by_category), list(by_category.values())
    )


def _group_names(categories: list[str]) -> list[str]:
    """Return each category's name in charts, tables and the page of `dvc plots show`.

    That page is made by DVC, with the names inside of a script: none holds `<`.
    """
    names: list[str] = []
    for category in categories:
        short = shortened(category.replace("<", "‹"), LONGEST_NAME)
        alike = (f"{short} ({number})" for number in count(2))
        names.append(next(name for name in chain([short], alike) if name not in names))
    return names


def slice_scores(
    ids: ArrayLike,
    y_true: ArrayLike,
    predictions: dict[str, Floats],
    groups: pd.Categorical,
    *,
    covered: dict[str, NDArray[np.bool_]],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Score]]:
    """Return mae with its 95% interval, and bias (USD), by predictor and group.

    Args:
        ids: (n,) of the products.
        y_true: (n,) USD.
        predictions: (n,) USD by the predictor's name.
        groups: (n,) each product's group; those without products are left out.
        covered: (n,) whether the 80% interval holds the truth, for predictors that give one:
            their scores have coverage_80 too.
        bootstrap: how the products of each group are drawn.
    """
    truth = np.asarray(y_true, dtype=float)
    result: dict[str, dict[str, Score]] = {name: {} for name in predictions}
    for code, group in enumerate(groups.categories):
        rows = groups.codes == code
        if not rows.any():
            continue
        errors = {name: guess[rows] - truth[rows] for name, guess in predictions.items()}
        losses = {name: np.abs(error) for name, error in errors.items()}
        intervals = mean_intervals(np.asarray(ids)[rows], losses, bootstrap)
        for name, error in errors.items():
            values = {"mae": float(losses[name].mean()), "bias": float(error.mean())}
            if name in covered:
                values["coverage_80"] = float(covered[name][rows].mean())
            result[name][group] = Score(len(error), values, {"mae": intervals[name]})
    return result


def risk_coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the error on the surest products, for shares of all that are answered.

    How sure a prediction is, the width of its calibrated 80% interval in log dollars says: by
    dollars, dear products would be left out first.
    Source: El-Yaniv and Wiener (2010); Geifman and El-Yaniv (2017).

    Args:
        predictions: price, estimate_usd, low_80 and high_80 (USD).

    Returns:
        share_answered from about 0.05 to 1, mae_usd, median_ape (a share).
    """
    width = np.log1p(predictions["high_80"]) - np.log1p(predictions["low_80"])
    surest = predictions.loc[width.sort_values(kind="stable").index]
    truth, guess = (surest[name].to_numpy(float) for name in ("price", "estimate_usd"))
    counts = np.unique(np.ceil(np.linspace(0.05, 1, 96) * len(truth)).astype(int))
    told = [scores(truth[:count], guess[:count]) for count in counts]
    return pd.DataFrame(
        {
            "share_answered": counts / len(truth),
            "mae_usd": [those["mae"] for those in told],
            "median_ape": [those["median_ape"] for those in told],
        }
    )


def calibration_curve(pit: ArrayLike) -> tuple[Floats, Floats]:
    """Return levels, and the share of products below the quantile of each level.

    For an honest distribution the two are equal.
    """
    values, levels = np.sort(np.asarray(pit, dtype=float)), np.arange(0, 101) / 100
    return levels, np.searchsorted(values, levels, side="right") / len(values)


def running_mean(values: ArrayLike) -> tuple[Floats, Floats]:
    """Return the mean of the first k values and the half width of its 95% band, for k = 1..n.

    The band is 1.96 standard errors of the mean; the first value has none (0).
    """
    data = np.asarray(values, dtype=float)
    count = np.arange(1, len(data) + 1)
    mean = data.cumsum() / count
    variance = np.maximum(np.square(data).cumsum() / count - mean**2, 0) * count
    deviation = np.sqrt(variance / np.maximum(count - 1, 1))
    return mean, 1.96 * deviation / np.sqrt(count)
