"""Everything that is measured of a run, from its tables of predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pricer.errors import ItemsError
from pricer.judging.metrics import (
    calibration_curve,
    category_groups,
    evaluate,
    interval_scores,
    mae,
    paired_differences,
    point_scores,
    price_bands,
    reference_colors,
    running_mean,
    slice_scores,
)
from pricer.prices.distribution import INTERVALS

PLOTTED = 1000  # products in the data of a plot: evenly thinned out, `dvc plots` draws each point


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a run.

    Attributes:
        scores: by predictor ("tuned", "base", and the baselines), see `metrics.evaluate`; of the
            two models those of their intervals too; of all but the tuned model
            `tuned_less_this`, its MAE less the predictor's with a paired 95% interval, USD.
        slices: by kind ("price", "category"), predictor and group, see `metrics.slice_scores`.
        floor_mae: of the noise-free prices, USD; None where nobody knows these.
        products: the tuned model's predictions in the order of the items, with title, summary,
            category, estimate, error, low_80 and high_80 (USD) and verdict.
    """

    scores: dict[str, dict[str, Any]]
    slices: dict[str, dict[str, dict[str, dict[str, Any]]]]
    floor_mae: float | None
    products: pd.DataFrame


def evaluate_run(
    items: pd.DataFrame,
    models: dict[str, pd.DataFrame],
    baselines: pd.DataFrame,
    *,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Judge every predictor on the same products.

    Args:
        items: the test split.
        models: predictions tables of "tuned" and "base".
        baselines: id, price, and a column of estimates (USD) for each baseline.
        resamples: of every bootstrap.
        seed: of every bootstrap.

    Raises:
        ItemsError: a table judges other products.
    """
    resampling: Any = {"resamples": resamples, "seed": seed}
    models = {name: _in_order(table, items, name) for name, table in models.items()}
    baselines = _in_order(baselines, items, "baselines").drop(columns=["id", "price"])
    truth = items["price"].to_numpy(float)
    guesses = {name: table["point"].to_numpy(float) for name, table in models.items()}
    guesses |= {str(name): column.to_numpy(float) for name, column in baselines.items()}

    scores = evaluate(truth, guesses, **resampling)
    covered = {}
    for name, table in models.items():
        scores[name] |= interval_scores(table, INTERVALS)
        scores[name]["points"] = point_scores(table, **resampling)
        covered[name] = table["price"].between(table["low_80"], table["high_80"]).to_numpy()
    others = {name: guess for name, guess in guesses.items() if name != "tuned"}
    gaps = paired_differences(truth, guesses["tuned"], others, **resampling)
    for name, gap in gaps.items():
        scores[name]["tuned_less_this"] = gap
    groups = {"price": price_bands(truth), "category": category_groups(items["category"])}
    slices = {
        kind: slice_scores(truth, guesses, group, covered=covered, **resampling)
        for kind, group in groups.items()
    }
    noise_free = items.get("noise_free_price")
    floor_mae = None if noise_free is None else mae(truth, noise_free.to_numpy(float))

    estimate = models["tuned"]["point"].fillna(0)
    products = models["tuned"].assign(
        title=items["title"].to_numpy(),
        summary=items["summary"].to_numpy(),
        category=items["category"].to_numpy(),
        estimate=estimate,
        error=estimate - truth,
        verdict=reference_colors(truth, estimate),
    )
    return Evaluation(scores, slices, floor_mae, products)


def _in_order(table: pd.DataFrame, items: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of `table` in the order of `items`."""
    if sorted(table["id"]) != sorted(items["id"]):
        raise ItemsError(f"the {name} predictions are not of these items: run `dvc repro`")
    return table.set_index("id").loc[items["id"]].reset_index()


def plot_data(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Return the data of each chart for `dvc plots`, USD, by the chart's name."""
    products = evaluation.products
    mean, half = running_mean(products["error"].abs())
    levels, shares = calibration_curve(products["pit"])
    thinned = products.iloc[:: -(-len(products) // PLOTTED)]
    data = {
        "leaderboard": pd.DataFrame(
            {"predictor": name, "mae_usd": score["mae"]}
            for name, score in evaluation.scores.items()
        ),
        "scatter": pd.DataFrame(
            {
                "truth_usd": thinned["price"],
                "predicted_usd": thinned["estimate"],
                "y_is_x": thinned["price"],
                "error_usd": thinned["error"],
                "verdict": thinned["verdict"],
            }
        ),
        "running_error": pd.DataFrame(
            {
                "products": np.arange(1, len(mean) + 1),
                "mae_usd": mean,
                "low_usd": mean - half,
                "high_usd": mean + half,
            }
        ).iloc[:: -(-len(mean) // PLOTTED)],
        "calibration": pd.DataFrame({"level": levels, "share_below": shares, "ideal": levels}),
        "interval_widths": pd.DataFrame(
            {
                "estimate_usd": thinned["median"],
                "width_80_usd": thinned["high_80"] - thinned["low_80"],
            }
        ),
    }
    for kind, predictors in evaluation.slices.items():
        data[f"error_by_{kind}"] = pd.DataFrame(
            {kind: group, "mae_usd": own["mae"]} for group, own in predictors["tuned"].items()
        )
    return data
