"""Scores in dollars: pure NumPy, each with a bootstrap interval."""

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
CHUNK = 2_000_000  # drawn products at once while resampling: 16 MB an array

BAND_EDGES = [0, 25, 100, 250, np.inf]  # USD, of the true price; a band holds its lower edge
BANDS = ["under $25", "$25 to $100", "$100 to $250", "$250 and over"]
LARGEST_CATEGORIES = 12  # told one by one, the rest together
OTHER = "all others"


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


def scores(y_true: ArrayLike, y_pred: ArrayLike) -> dict[str, float | int]:
    """Return every score of point estimates.

    Args:
        y_true: (n,) USD.
        y_pred: (n,) USD.

    Returns:
        n; mae, rmse, median_ae, p90_ae (the error that 90% stay under) and bias (mean of estimate
        less truth), USD; mse, USD squared; r2; median_ape and smape (Makridakis 1993, 0 to 2) as
        shares; rmsle (root mean squared error of log(1 + price)); hit_rate, orange_rate and
        red_rate, the shares of the reference recipe's green, orange and red.

    Raises:
        ValueError: shapes differ, or there is nothing to score.
    """
    truth, guess = np.asarray(y_true, dtype=float), np.asarray(y_pred, dtype=float)
    if truth.shape != guess.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"need two equal, non-empty vectors, got {truth.shape} and {guess.shape}")
    error = guess - truth
    absolute = np.abs(error)
    size = np.abs(truth) + np.abs(guess)
    colors = reference_colors(truth, guess)
    return {
        "n": len(truth),
        "mae": mae(truth, guess),
        "mse": mse(truth, guess),
        "rmse": float(np.sqrt(mse(truth, guess))),
        "r2": r2(truth, guess),
        "median_ae": float(np.median(absolute)),
        "p90_ae": float(np.quantile(absolute, 0.9)),
        # a price of nothing counts as one cent
        "median_ape": float(np.median(absolute / np.maximum(truth, 0.01))),
        "smape": float((2 * absolute / np.where(size > 0, size, 1)).mean()),
        "rmsle": float(np.sqrt(np.square(np.log1p(np.maximum(guess, 0)) - np.log1p(truth)).mean())),
        "bias": float(error.mean()),
        "hit_rate": float((colors == "green").mean()),
        "orange_rate": float((colors == "orange").mean()),
        "red_rate": float((colors == "red").mean()),
    }


def resampled_means(values: Floats, *, resamples: int, seed: int) -> Floats:
    """Return the column means of `values` over bootstrap resamples of its rows.

    All columns share the resamples, so that what they have in common cancels out of differences.

    Args:
        values: (n, k).
        resamples: how many.
        seed: the same for the same resamples, given the order of rows.

    Returns:
        (resamples, k).
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.empty((resamples, values.shape[1]))
    step = max(CHUNK // n, 1)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        # how often each product was drawn: one matrix product then serves every column
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(float) @ values / n
    return means


def percentile_interval(resampled: Floats) -> tuple[float, float]:
    """Return the ends of the 95% percentile interval (Efron and Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def evaluate(
    y_true: ArrayLike, predictions: dict[str, Floats], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the scores of each predictor on the same products.

    mae, mse and r2 have 95% bootstrap intervals over products, `_ci_low` and `_ci_high`; all
    predictors are judged on the same resamples, whatever the order of products. A prediction of
    NaN, where the model said no number, counts as $0 as in the reference recipe; `unparsed_rate`
    says how many.

    Args:
        y_true: (n,) USD.
        predictions: (n,) USD by the predictor's name.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    truth = np.asarray(y_true, dtype=float)
    guesses = {name: np.nan_to_num(guess, nan=0.0) for name, guess in predictions.items()}
    result: dict[str, dict[str, Any]] = {
        name: scores(truth, guess) | {"unparsed_rate": float(np.isnan(predictions[name]).mean())}
        for name, guess in guesses.items()
    }
    error = np.stack([guess - truth for guess in guesses.values()], axis=1)
    # in an order of their own: the intervals do not depend on that of the rows
    order = np.lexsort([*error.T, truth])
    error, centred = error[order], (truth - truth.mean())[order, None]
    columns = np.hstack([centred, np.square(centred), np.abs(error), np.square(error)])
    means = resampled_means(columns, resamples=resamples, seed=seed)
    variance = means[:, 1] - np.square(means[:, 0])
    for place, score in enumerate(result.values(), start=2):
        squared = means[:, place + len(result)]
        with np.errstate(divide="ignore", invalid="ignore"):
            explained = 1 - squared / variance
        constant = (squared == 0).astype(float)  # as `r2` for a truth that does not vary
        resampled = {
            "mae": means[:, place],
            "mse": squared,
            "r2": np.where(variance > 1e-12, explained, constant),
        }
        for name, values in resampled.items():
            score[f"{name}_ci_low"], score[f"{name}_ci_high"] = percentile_interval(values)
    return result


def price_bands(price: ArrayLike) -> pd.Categorical:
    """Return the band of each true price."""
    return pd.Categorical(pd.cut(np.asarray(price), BAND_EDGES, right=False, labels=BANDS))


def category_groups(categories: ArrayLike) -> pd.Categorical:
    """Return each product's category where it is one of the largest, else `OTHER`."""
    names = pd.Series(np.asarray(categories, dtype=str)).replace("", "no category")
    counts = names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    largest = list(counts.index[:LARGEST_CATEGORIES])
    return pd.Categorical(
        names.where(names.isin(largest), OTHER), list(dict.fromkeys([*largest, OTHER]))
    )


def slice_scores(
    y_true: ArrayLike,
    predictions: dict[str, Floats],
    groups: pd.Categorical,
    *,
    covered: dict[str, NDArray[np.bool_]],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, float | int]]]:
    """Return n, mae with its 95% interval, and bias (USD), by predictor and group.

    Args:
        y_true: (n,) USD.
        predictions: (n,) USD by the predictor's name; NaN counts as $0.
        groups: (n,) each product's group; those without products are left out.
        covered: (n,) whether the 80% interval holds the truth, for predictors that give one:
            their scores have `coverage_80` too.
        resamples: bootstrap resamples of the products of each group.
        seed: of the resampling.
    """
    truth = np.asarray(y_true, dtype=float)
    error = np.stack([np.nan_to_num(guess, nan=0.0) - truth for guess in predictions.values()], 1)
    result: dict[str, dict[str, dict[str, float | int]]] = {name: {} for name in predictions}
    for code, group in enumerate(groups.categories):
        rows = groups.codes == code
        if not rows.any():
            continue
        own = error[rows][np.lexsort(error[rows].T)]
        means = resampled_means(np.abs(own), resamples=resamples, seed=seed)
        for place, name in enumerate(predictions):
            low, high = percentile_interval(means[:, place])
            result[name][group] = {
                "n": len(own),
                "mae": float(np.abs(own[:, place]).mean()),
                "mae_ci_low": low,
                "mae_ci_high": high,
                "bias": float(own[:, place].mean()),
            }
            if name in covered:
                result[name][group]["coverage_80"] = float(covered[name][rows].mean())
    return result


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


def paired_differences(
    y_true: ArrayLike, one: Floats, others: dict[str, Floats], *, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return the mean absolute error of `one` less that of each other, with its 95% interval, USD.

    The bootstrap resamples products, each with both errors: what they share cancels out.

    Args:
        y_true: (n,) USD.
        one: (n,) USD; NaN counts as $0, here and in the others.
        others: (n,) USD by name.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    truth = np.asarray(y_true, dtype=float)
    own = np.abs(np.nan_to_num(one, nan=0.0) - truth)
    error = np.stack([np.abs(np.nan_to_num(other, nan=0.0) - truth) for other in others.values()])
    difference = own[:, None] - error.T
    difference = difference[np.lexsort(difference.T)]
    means = resampled_means(difference, resamples=resamples, seed=seed)
    result = {}
    for place, name in enumerate(others):
        low, high = percentile_interval(means[:, place])
        mean = float(difference[:, place].mean())
        result[name] = {"mae": mean, "mae_ci_low": low, "mae_ci_high": high}
    return result


def point_scores(predictions: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, Any]:
    """Return the mean absolute error of each point estimate, USD, and what the median gains.

    Args:
        predictions: price, greedy, mode, median, mean; a greedy NaN counts as $0.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    price = predictions["price"].to_numpy(float)
    points = {
        name: predictions[name].fillna(0).to_numpy(float)
        for name in ("greedy", "mode", "median", "mean")
    }
    gain = paired_differences(
        price, points["median"], {"greedy": points["greedy"]}, resamples=resamples, seed=seed
    )
    return {name: {"mae": mae(price, values)} for name, values in points.items()} | {
        "median_minus_greedy": gain["greedy"]
    }


def calibration_curve(pit: ArrayLike) -> tuple[Floats, Floats]:
    """Return levels, and the share of products below the quantile of each level.

    For an honest distribution the two are equal.
    """
    values, levels = np.sort(np.asarray(pit, dtype=float)), np.arange(0, 101) / 100
    return levels, np.searchsorted(values, levels, side="right") / len(values)


def interval_scores(predictions: pd.DataFrame, levels: tuple[int, ...]) -> dict[str, float]:
    """Return the scores of the intervals of a predictions table, calibrated and raw.

    Args:
        predictions: price, crps, price_mass, dropped_mass, q05 to q95, low_80, raw_low_80, ...
        levels: of the intervals, percent.
    """
    price = predictions["price"].to_numpy(float)
    losses = [
        pinball(price, predictions[name], int(name[1:]) / 100)
        for name in map(str, predictions)
        if re.fullmatch(r"q\d\d", name)
    ]
    result = {
        "crps": float(predictions["crps"].mean()),
        "pinball": float(np.mean(losses)),
        "price_mass": float(predictions["price_mass"].mean()),
        "dropped_mass": float(predictions["dropped_mass"].mean()),
    }
    for level in levels:
        for kind in ("", "raw_"):
            low, high = predictions[f"{kind}low_{level}"], predictions[f"{kind}high_{level}"]
            result |= {
                f"{kind}coverage_{level}": coverage(price, low, high),
                f"{kind}width_{level}": float((high - low).mean()),
                f"{kind}width_{level}_median": float((high - low).median()),
                f"{kind}interval_score_{level}": interval_score(price, low, high, level / 100),
            }
    return result


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
