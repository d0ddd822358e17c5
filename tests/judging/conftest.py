"""A run's evaluation, its charts and its report, of made predictions on catalogue items."""

import numpy as np
import pandas as pd
import pytest

from pricer.judging.charts import CURVES, Drawing, draw_charts
from pricer.judging.evaluation import Evaluation, evaluate_run
from pricer.judging.leaderboard import leaderboard, published_scores
from pricer.judging.paired import Bootstrap
from pricer.judging.report import Report, html_report
from pricer.prices.distribution import PriceDistributions
from pricer.prices.predictions import make_predictions as predictions_table
from pricer.prices.predictions import no_number_is_zero

HOSTILE = (
    '| `rm` <script>alert(1)</script><img src="http://evil.example/x.png" onerror="alert(2)">'
    "{{ 7 * 7 }} {% raw %} ](javascript:alert(3)) \u202e &amp; 😀\n# heading"
)
EVIDENCE = {
    "train": {"n": 1400, "words_mae": 32.5, "words_mae_se": 0.5},
    "validation": {"n": 70, "words_mae": 33.75, "words_mae_se": 0.5},
    "test": {"n": 90, "words_mae": 36.25, "words_mae_se": 0.5, "nearest_similarity": 0.625},
}
TOKENS = {"n": 90, "summary_tokens_mean": 48.2}


def make_predictions(items: pd.DataFrame, spread: float, seed: int) -> pd.DataFrame:
    """A predictions table of log-normal distributions around the truth, `spread` wide."""
    rng = np.random.default_rng(seed)
    center = np.log1p(items["price"]) + rng.normal(0, spread, len(items))
    z = (np.log1p(np.arange(1000)) - center.to_numpy()[:, None]) / spread
    probabilities = np.exp(-(z**2) / 2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    said = PriceDistributions(
        probabilities,
        np.full(len(items), 0.9),
        np.full(len(items), 0.01),
        [f"{mode}.00" for mode in probabilities.argmax(axis=1)],
        batch_size=1,
    )
    offsets = {"50": 0.1, "80": 0.1, "90": 0.1}
    return predictions_table(items, said, offsets, kind="median")


def make_evidence(items: pd.DataFrame) -> pd.DataFrame:
    """Evidence as like as 0.1, 0.6 or not at all, in turn."""
    similarities = [[[0.1], [0.6], []][row % 3] for row in range(len(items))]
    nothing = {"neighbor_ids": [[]] * len(items), "neighbor_prices": [[]] * len(items)}
    return items[["id"]].assign(
        **nothing, neighbor_similarities=similarities, words_estimate_usd=50.0
    )


def make_evaluation(items: pd.DataFrame) -> Evaluation:
    items = items.reset_index(drop=True)
    estimates = {
        "mean_price": 100.0,
        "median_price": 70.0,
        "ridge": items["price"] * 1.6,
        "ridge_log": items["price"] * 1.7,
        "nearest_neighbors": items["price"] * 1.8,
    }
    return evaluate_run(
        items,
        {
            "tuned": no_number_is_zero(make_predictions(items, 0.4, 0)),
            "base": no_number_is_zero(make_predictions(items, 1.2, 1)),
        },
        items[["id", "price"]].assign(**estimates),
        make_evidence(items),
        Bootstrap(resamples=200, seed=0),
    )


@pytest.fixture(scope="session")
def evaluation(items):
    named = items.head(90).copy()
    named.loc[named.index[3], ["title", "summary", "category"]] = [HOSTILE] * 3
    named.loc[named.index[3], "price"] = 990.0  # among the worst, so that it is shown
    return make_evaluation(named)


def make_report(evaluation: Evaluation, dataset: str | None) -> Report:
    published = published_scores(dataset)
    return Report(
        evaluation,
        leaderboard(evaluation, published),
        published,
        evidence=EVIDENCE,
        tokens=TOKENS,
        params={"lora.r": 16},
        hashes={"data/items": "abc"},
    )


@pytest.fixture(scope="session")
def report(evaluation):
    return make_report(evaluation, "ed-donner/items_lite")


@pytest.fixture(scope="session")
def drawing(report):
    curves = {name: pd.DataFrame({"step": [5, 10], name: [0.9, 0.8]}) for name in CURVES}
    return Drawing(report.evaluation, report.leaderboard, curves)


@pytest.fixture(scope="session")
def charts(tmp_path_factory, drawing):
    folder = tmp_path_factory.mktemp("charts")
    draw_charts(folder, drawing)
    return folder


@pytest.fixture(scope="session")
def page(report, charts):
    return html_report(report, charts)
