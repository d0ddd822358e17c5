"""Scores as Markdown, for people."""

from typing import Any


def score_table(scores: dict[str, dict[str, Any]], floor_mae: float | None) -> str:
    """Return a Markdown table with a row for each predictor.

    Args:
        scores: by the predictor's label, what `metrics.evaluate` returns for it.
        floor_mae: mean absolute error of a perfect predictor in USD, None where nobody knows it.
    """
    lines = ["| predictor | MAE | 95% interval | R² |", "|---|---|---|---|"]
    for label, score in scores.items():
        interval = f"{score['mae_ci_low']:.2f} to {score['mae_ci_high']:.2f}"
        lines.append(f"| {label} | ${score['mae']:.2f} | {interval} | {score['r2']:.2f} |")
    if floor_mae is not None:
        lines.append(f"| floor | ${floor_mae:.2f} | | |")
    n = next(iter(scores.values()))["n"]
    return "\n".join([*lines, "", f"Mean absolute error in dollars on {n} test products.", ""])
