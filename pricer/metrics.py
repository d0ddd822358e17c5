"""Scores in dollars: pure NumPy, each with a bootstrap interval."""

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
CHUNK = 200  # bootstrap resamples at once: 200 x 10,000 products take 16 MB


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


def scores(
    y_true: ArrayLike, y_pred: ArrayLike, *, resamples: int, seed: int
) -> dict[str, float | int]:
    """Return n, mae, mse and r2, each of the last three with `_ci_low` and `_ci_high`.

    The interval is the 95% percentile bootstrap over products (Efron and Tibshirani 1993, ch. 13).

    Args:
        y_true: (n,) USD.
        y_pred: (n,) USD.
        resamples: bootstrap resamples.
        seed: of the resampling; the same for the same n, so that predictors are resampled alike.

    Raises:
        ValueError: shapes differ, or there is nothing to score.
    """
    truth, guess = np.asarray(y_true, dtype=float), np.asarray(y_pred, dtype=float)
    if truth.shape != guess.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"need two equal, non-empty vectors, got {truth.shape} and {guess.shape}")
    result: dict[str, float | int] = {"n": len(truth)}
    intervals = _bootstrap(truth, guess, resamples=resamples, seed=seed)
    for name, value in (("mae", mae), ("mse", mse), ("r2", r2)):
        result[name] = value(truth, guess)
        result[f"{name}_ci_low"], result[f"{name}_ci_high"] = intervals[name]
    return result


def _bootstrap(
    truth: Floats, guess: Floats, *, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of mae, mse and r2."""
    rng = np.random.default_rng(seed)
    error = guess - truth
    absolute, squared = np.abs(error), np.square(error)
    centred = truth - truth.mean()
    n = len(truth)
    columns: dict[str, list[Floats]] = {"mae": [], "mse": [], "r2": []}
    for start in range(0, resamples, CHUNK):
        rows = rng.integers(n, size=(min(CHUNK, resamples - start), n))
        total = centred[rows].var(axis=1)
        resampled_mse = squared[rows].mean(axis=1)
        columns["mae"].append(absolute[rows].mean(axis=1))
        columns["mse"].append(resampled_mse)
        with np.errstate(divide="ignore", invalid="ignore"):
            explained = 1 - resampled_mse / total
        columns["r2"].append(np.where(total > 0, explained, (resampled_mse == 0).astype(float)))
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for name, values in columns.items():
        low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
        intervals[name] = (float(low), float(high))
    return intervals


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


def paired_difference(
    y_true: Floats, one: Floats, other: Floats, *, resamples: int, seed: int
) -> dict[str, float]:
    """Return the mean absolute error of `one` less that of `other`, with its 95% interval, USD.

    The bootstrap resamples products, each with both errors: what they share cancels out.
    """
    difference = np.abs(one - y_true) - np.abs(other - y_true)
    rng = np.random.default_rng(seed)
    n = len(difference)
    means = np.concatenate(
        [
            difference[rng.integers(n, size=(min(CHUNK, resamples - start), n))].mean(axis=1)
            for start in range(0, resamples, CHUNK)
        ]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mae": float(difference.mean()), "mae_ci_low": float(low), "mae_ci_high": float(high)}


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
    return {name: {"mae": mae(price, values)} for name, values in points.items()} | {
        "median_minus_greedy": paired_difference(
            price, points["median"], points["greedy"], resamples=resamples, seed=seed
        )
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


def evaluate(
    y_true: Floats, predictions: dict[str, Floats], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the scores of each predictor on the same products.

    A prediction of NaN, where the model said no number, counts as $0 as in the reference recipe;
    `unparsed_rate` says how many.
    """
    return {
        name: scores(y_true, np.nan_to_num(guess, nan=0.0), resamples=resamples, seed=seed)
        | {"unparsed_rate": float(np.isnan(guess).mean())}
        for name, guess in predictions.items()
    }
