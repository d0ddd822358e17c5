"""One bootstrap, one order of products: the same claim has the same interval everywhere."""

import re

import numpy as np
import pandas as pd
import pytest

from pricer.commands.runs import read_run, read_tuned
from pricer.commands.sweeps import sweep, sweep_json, sweep_text
from pricer.judging.comparison import compare, comparison_json, comparison_text
from pricer.judging.evaluation import evaluate_run, scores_json
from pricer.judging.leaderboard import leaderboard
from pricer.judging.metrics import evaluate, mae
from pricer.judging.paired import (
    Bootstrap,
    Gap,
    Interval,
    Score,
    flat,
    mean_intervals,
    paired_gaps,
    resampled_means,
)
from pricer.judging.report import Report, score_table
from pricer.prices.predictions import read_predictions
from tests.judging.conftest import make_evidence, make_predictions

BOOTSTRAP = Bootstrap(resamples=300, seed=42)


def test_intervals_do_not_depend_on_the_order_of_products_nor_on_other_predictors():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(4, 1, 100)
    guesses = {name: truth * rng.lognormal(0, 0.5, 100) for name in "ab"}
    ids, bootstrap = rng.permutation(1000)[:100], Bootstrap(50, 3)
    found = flat(evaluate(ids, truth, guesses, bootstrap))
    order = rng.permutation(100)
    shuffled = {name: guess[order] for name, guess in guesses.items()}
    for name, score in evaluate(ids[order], truth[order], shuffled, bootstrap).items():
        assert flat(score) == pytest.approx(found[name], rel=1e-12)
    alone = evaluate(ids, truth, {"a": guesses["a"]}, bootstrap)["a"]
    assert flat(alone) == pytest.approx(found["a"], rel=1e-12)


def test_resampled_means_are_means_of_rows_drawn_with_replacement():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2))
    means = resampled_means(np.arange(30), values, Bootstrap(4000, 0))
    assert means.shape == (4000, 2)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.02)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(30), rel=0.05)
    # columns share the draws
    np.testing.assert_allclose(
        resampled_means(np.arange(30), values @ [[1], [1]], Bootstrap(50, 1))[:, 0],
        resampled_means(np.arange(30), values, Bootstrap(50, 1)).sum(axis=1),
    )


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        losses = {"mae": np.abs(rng.normal(0, 10, 300))}
        [interval] = mean_intervals(np.arange(300), losses, Bootstrap(400, draw)).values()
        covered += interval.holds(10 * np.sqrt(2 / np.pi))
    assert 0.90 <= covered / 200 <= 0.99


def test_what_two_predictors_share_cancels_out_of_their_difference():
    rng = np.random.default_rng(1)
    truth = rng.lognormal(4, 1, 300)
    own = truth + rng.normal(0, 50, 300)
    better = truth + (own - truth) / 1.1
    losses = {name: np.abs(guess - truth) for name, guess in (("own", own), ("better", better))}
    differences = {name: losses["own"] - loss for name, loss in losses.items()}
    gaps = paired_gaps(np.arange(300), differences, Bootstrap(500, 0))
    assert gaps["own"] == Gap(300, 0.0, Interval(0.0, 0.0)) and not gaps["own"].is_clear
    gap = gaps["better"]
    assert 0 < gap.interval.low < gap.value < gap.interval.high and gap.is_clear
    assert gap.value == pytest.approx(0.1 * mae(truth, better))


def test_results_are_flattened_to_the_keys_of_the_files():
    interval = Interval(1, 3)
    assert flat({"x": Gap(5, 2.0, interval), "y": None}) == {
        "x": {"mae": 2.0, "mae_ci_low": 1, "mae_ci_high": 3},
        "y": None,
    }
    score = Score(5, {"mae": 2.0, "bias": -1.0}, {"mae": interval})
    assert list(flat(score)) == ["n", "mae", "mae_ci_low", "mae_ci_high", "bias"]


@pytest.fixture(scope="module")
def project(items, tmp_path_factory):
    """A run on disk: the rows of each file in an order of their own."""
    folder = tmp_path_factory.mktemp("run")
    test = items.head(90)
    tables = {
        "tuned": make_predictions(test, 0.4, 0),
        "base": make_predictions(test, 1.2, 1),
        "baselines": test[["id", "price"]].assign(
            mean_price=100.0, ridge=test["price"] * 1.3, ridge_log=90.0
        ),
    }
    for seed, (name, table) in enumerate(tables.items()):
        table.sample(frac=1, random_state=seed).to_parquet(folder / f"{name}.parquet")
    return folder, test.sample(frac=1, random_state=9)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"[+-]?\d+\.\d+", text.replace("$", ""))]


def test_the_report_compare_and_sweep_say_the_same(project, monkeypatch):
    """Tuned less ridge, from the three doors that print it."""
    folder, test = project
    test.to_parquet(folder / "items.parquet")
    tables = {
        name: read_predictions(folder / f"{name}.parquet", name) for name in ("tuned", "base")
    }
    baselines = pd.read_parquet(folder / "baselines.parquet")
    evaluation = evaluate_run(test, tables, baselines, make_evidence(test), BOOTSTRAP)
    rows = leaderboard(evaluation, None)
    table = score_table(Report(evaluation, rows, None, None, {}, {}, {}))

    tuned, ridge = (
        read_run(name, predictions_dir=folder, items_file=folder / "items.parquet")[0]
        for name in ("tuned", "ridge")
    )
    comparison = compare(ridge, tuned, test, BOOTSTRAP)

    # what `pricer sweep show` reads from DVC's cache, here from the folder
    ridge.to_parquet(folder / "ridge.parquet")
    monkeypatch.setattr("pricer.commands.runs.read_revision", lambda path, name: path)
    experiments = {
        name: read_tuned(folder / f"{name}.parquet", name) for name in ("ridge", "tuned")
    }
    swept = sweep(dict.fromkeys(experiments, {}), experiments, BOOTSTRAP)
    assert [row.name for row in swept] == ["ridge", "tuned"]

    # as JSON
    told = scores_json(evaluation)["ridge"]["tuned_less_this"]
    delta = comparison_json(comparison)["delta"]["mae"]
    assert told == pytest.approx(
        {"mae": delta["value"], "mae_ci_low": delta["ci_low"], "mae_ci_high": delta["ci_high"]},
        rel=1e-12,
    )
    assert told == pytest.approx(sweep_json(swept)[1]["less_first"], rel=1e-12)
    single = {key: value for key, value in flat(swept[1].score).items() if key != "n"}
    assert single == pytest.approx({key: scores_json(evaluation)[key] for key in single}, rel=1e-12)

    # as text: the last three numbers of each line
    [line] = [line for line in table.splitlines() if line.startswith("| ridge on words  ")]
    printed = numbers(line)[-3:]
    assert len(set(printed)) == 3
    text = comparison_text(comparison, "ridge", "tuned", markdown=False)
    [line] = [line for line in text.splitlines() if line.startswith("MAE ")]
    assert numbers(line)[2:5] == printed
    assert numbers(sweep_text(swept, {}, markdown=False).splitlines()[-1])[-3:] == printed
