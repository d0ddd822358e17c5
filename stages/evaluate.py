"""evaluate: scores in dollars, charts and plot data."""

from pathlib import Path

import numpy as np
import pandas as pd

from pricer.charts import calibration, interval_widths, running_error, scatter
from pricer.distribution import INTERVALS
from pricer.errors import ItemsError, run_stage
from pricer.files import read_parquet, write_json, writing
from pricer.items import read_items
from pricer.metrics import (
    calibration_curve,
    evaluate,
    interval_scores,
    mae,
    point_scores,
    reference_colors,
    running_mean,
)
from pricer.params import read_params
from pricer.report import score_table


def main(items_dir: Path, base_file: Path, tuned_file: Path, metrics_dir: Path) -> None:
    """Write `evaluate.json`, `report.md`, charts and their data to `metrics_dir`."""
    params = read_params().evaluate
    items = read_items(items_dir, "test").set_index("id")
    tuned, base = read_parquet(tuned_file), read_parquet(base_file)
    if set(tuned["id"]) != set(items.index) or list(tuned["id"]) != list(base["id"]):
        raise ItemsError(f"{tuned_file} and {base_file} judge other products than {items_dir}")
    truth = tuned["price"].to_numpy(float)
    constant = float(read_items(items_dir, "train")["price"].median())
    scores = evaluate(
        truth,
        {
            "tuned": tuned["point"].to_numpy(float),
            "base": base["point"].to_numpy(float),
            # the best single guess for the mean absolute error: the median training price
            "constant": np.full(len(truth), constant),
        },
        resamples=params.bootstrap_resamples,
        seed=params.seed,
    )
    for name, predictions in (("tuned", tuned), ("base", base)):
        scores[name] |= interval_scores(predictions, INTERVALS)
        scores[name]["points"] = point_scores(
            predictions, resamples=params.bootstrap_resamples, seed=params.seed
        )
    noise_free = items.get("noise_free_price")
    floor = {}
    if noise_free is not None:
        floor = {"floor_mae": mae(truth, noise_free[tuned["id"]].to_numpy(float))}
    headline = scores.pop("tuned")
    write_json(metrics_dir / "evaluate.json", headline | floor | scores)
    report = score_table(
        {"tuned model": headline, "base model": scores["base"], "constant": scores["constant"]},
        floor.get("floor_mae"),
    )
    with writing(metrics_dir / "report.md") as partial:
        partial.write_text(report, encoding="utf-8")

    guess = tuned["point"].fillna(0).to_numpy(float)
    error = np.abs(guess - truth)
    colors = reference_colors(truth, guess)
    title = f"MAE ${headline['mae']:.2f} (95% {headline['mae_ci_low']:.2f}"
    title += f" to {headline['mae_ci_high']:.2f}), n = {headline['n']}"
    scatter(metrics_dir / "scatter.png", truth, guess, colors, f"Tuned model: {title}")
    running_error(metrics_dir / "running_error.png", error, f"Tuned model: {title}")
    calibration(metrics_dir / "calibration.png", tuned["pit"])
    interval_widths(metrics_dir / "interval_widths.png", tuned)
    mean, half = running_mean(error)
    levels, shares = calibration_curve(tuned["pit"])
    plots = {
        "scatter": {
            "truth_usd": truth,
            "predicted_usd": guess,
            "y_is_x": truth,
            "verdict": colors,
        },
        "running_error": {
            "products": np.arange(1, len(mean) + 1),
            "mae_usd": mean,
            "low_usd": mean - half,
            "high_usd": mean + half,
        },
        "calibration": {"level": levels, "share_below": shares, "ideal": levels},
        "interval_widths": {
            "estimate_usd": tuned["median"],
            "width_80_usd": tuned["high_80"] - tuned["low_80"],
        },
    }
    with writing(metrics_dir / "plots", folder=True) as partial:
        for name, columns in plots.items():
            write_json(partial / f"{name}.json", pd.DataFrame(columns).to_dict(orient="records"))


if __name__ == "__main__":
    run_stage("evaluate", main)
