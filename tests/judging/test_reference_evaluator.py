"""The reference recipe's evaluator, fed the same guesses and truths, says the same."""

import pandas as pd
import pytest
from sklearn.metrics import mean_squared_error, r2_score

from pricer.judging.metrics import reference_colors, scores
from tests.conftest import ROOT


def reference_color(error: float, truth: float) -> str:
    if error < 40 or error / truth < 0.2:
        return "green"
    if error < 80 or error / truth < 0.4:
        return "orange"
    return "red"


def test_the_same_scores_and_colors():
    table = pd.read_csv(ROOT / "tests/data/guesses.csv")
    truths, guesses = table["truth"].tolist(), table["guess"].tolist()
    errors = [abs(guess - truth) for guess, truth in zip(guesses, truths, strict=True)]
    colors = [reference_color(error, truth) for error, truth in zip(errors, truths, strict=True)]
    ours = scores(truths, guesses)
    assert ours["mae"] == pytest.approx(sum(errors) / len(errors), rel=1e-14)
    assert ours["mse"] == pytest.approx(mean_squared_error(truths, guesses), rel=1e-14)
    assert ours["r2"] == pytest.approx(r2_score(truths, guesses), rel=1e-14)
    assert reference_colors(truths, guesses).tolist() == colors
    assert set(colors) == {"green", "orange", "red"}
    assert ours["hit_rate"] == colors.count("green") / len(colors)
