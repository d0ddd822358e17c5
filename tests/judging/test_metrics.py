import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from pricer.judging.metrics import (
    BANDS,
    INTERVAL_METRICS,
    LARGEST_CATEGORIES,
    METRICS,
    OTHER,
    TABLE_METRICS,
    calibration_curve,
    category_groups,
    coverage,
    evaluate,
    interval_score,
    mae,
    mse,
    pinball,
    price_bands,
    r2,
    reference_colors,
    risk_coverage,
    running_mean,
    scores,
    similarity_bands,
    slice_scores,
    table_scores,
)
from pricer.judging.paired import Bootstrap, Interval, flat
from tests.conftest import ROOT
from tests.judging.conftest import make_predictions

dollars = st.floats(0.5, 999.5)
pairs = st.integers(2, 60).flatmap(
    lambda n: st.tuples(arrays(float, n, elements=dollars), arrays(float, n, elements=dollars))
)


@given(pairs)
def test_scores_equal_scikit_learn(pair):
    truth, guess = pair
    assert mae(truth, guess) == pytest.approx(mean_absolute_error(truth, guess))
    assert mse(truth, guess) == pytest.approx(mean_squared_error(truth, guess))
    if np.ptp(truth) > 1e-3:
        assert r2(truth, guess) == pytest.approx(r2_score(truth, guess), rel=1e-6, abs=1e-6)


@given(pairs, st.floats(0.1, 10))
def test_dollars_scale_the_mean_absolute_error(pair, factor):
    truth, guess = pair
    assert mae(truth * factor, guess * factor) == pytest.approx(factor * mae(truth, guess))


def test_perfect_and_constant():
    truth = np.array([3.0, 3.0, 3.0])
    assert (mae(truth, truth), mse(truth, truth), r2(truth, truth)) == (0, 0, 1)
    assert r2(truth, truth + 1) == 0


def one(truth, guess, resamples=2000, seed=1):
    bootstrap = Bootstrap(resamples, seed)
    return evaluate(np.arange(len(truth)), truth, {"a": np.asarray(guess)}, bootstrap)["a"]


def test_intervals_hold_the_score_and_follow_the_seed():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(4, 1, 400)
    guess = truth * rng.lognormal(0, 0.5, 400)
    found = one(truth, guess)
    assert found == one(truth, guess)
    assert found != one(truth, guess, seed=2)
    for name in ("mae", "mse", "r2"):
        assert found.intervals[name].low < found.values[name] < found.intervals[name].high
    assert found.n == 400
    # the normal approximation agrees for a mean
    half = 1.96 * np.abs(guess - truth).std() / 20
    interval = found.intervals["mae"]
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_other_scores_by_hand():
    found = scores([10.0, 100.0, 200.0, 0.0], [20.0, 100.0, 50.0, 90.0])
    assert found["mae"] == 62.5 and found["bias"] == -12.5
    assert found["rmse"] == pytest.approx(np.sqrt((100 + 150**2 + 90**2) / 4))
    assert found["median_ae"] == 50 and found["p90_ae"] == pytest.approx(132)
    assert found["median_ape"] == pytest.approx((1 + 0.75) / 2)
    assert found["smape"] == pytest.approx((10 / 15 + 0 + 150 / 125 + 2) / 4)
    assert (found["hit_rate"], found["orange_rate"], found["red_rate"]) == (0.5, 0, 0.5)
    logs = np.log([21 / 11, 1, 51 / 201, 91])
    assert found["rmsle"] == pytest.approx(np.sqrt((logs**2).mean()))


@given(pairs)
def test_shares_are_shares_and_perfect_predictions_cost_nothing(pair):
    truth, guess = pair
    found = scores(truth, guess)
    assert found["hit_rate"] + found["orange_rate"] + found["red_rate"] == pytest.approx(1)
    assert 0 <= found["smape"] <= 2 and found["median_ae"] <= found["p90_ae"]
    perfect = scores(truth, truth)
    losses = ("mae", "mse", "rmse", "median_ae", "p90_ae", "median_ape", "smape", "rmsle", "bias")
    assert all(perfect[name] == 0 for name in losses) and perfect["r2"] == 1
    assert perfect["hit_rate"] == 1


@given(pairs)
def test_twice_the_pinball_loss_of_the_median_is_the_absolute_error(pair):
    truth, guess = pair
    assert 2 * pinball(truth, guess, 0.5) == pytest.approx(mae(truth, guess))


def test_bands_hold_their_lower_edge():
    prices = [0, 24.99, 25, 99.99, 100, 249.99, 250, 5000]
    assert list(price_bands(prices)) == [band for band in BANDS for _ in range(2)]


def test_small_categories_are_pooled():
    names = [f"c{n:02}" for n in range(15) for _ in range(n + 1)]
    groups = category_groups(names)
    assert list(groups.categories) == [f"c{n:02}" for n in range(14, 2, -1)] + [OTHER]
    assert list(category_groups(["", OTHER])) == ["no category", OTHER]
    assert list(category_groups(["a", " ", "a\n", "\t"])) == ["a", "no category"] * 2
    assert len(groups.categories) == LARGEST_CATEGORIES + 1 and (groups == OTHER).sum() == 1 + 2 + 3


def test_one_endless_category_does_not_take_memory_for_every_product():
    """In an array of NumPy's texts each would be as wide: here 75 GB."""
    assert list(category_groups(["x" * 1_000_000] + ["b"] * 20_000).categories)[0] == "b"


def test_slices_are_scores_of_their_products():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(4, 1, 200)
    guesses = {"a": truth + rng.normal(0, 20, 200), "b": np.zeros(200)}
    inside = {"a": rng.random(200) < 0.8}
    bands = price_bands(truth)
    bootstrap = Bootstrap(300, 0)
    found = flat(
        slice_scores(np.arange(200), truth, guesses, bands, covered=inside, bootstrap=bootstrap)
    )
    assert sum(own["n"] for own in found["a"].values()) == 200
    for band, own in found["a"].items():
        rows = np.asarray(bands == band)
        assert own["mae"] == pytest.approx(mae(truth[rows], guesses["a"][rows]))
        assert own["mae_ci_low"] < own["mae"] < own["mae_ci_high"]
        assert own["coverage_80"] == inside["a"][rows].mean()
        assert found["b"][band]["mae"] == pytest.approx(truth[rows].mean())
        assert "coverage_80" not in found["b"][band]


def test_shapes_that_differ_are_refused():
    for truth, guess in (([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]])):
        with pytest.raises(ValueError, match="equal, non-empty"):
            scores(truth, guess)


@pytest.mark.parametrize(
    ("truth", "guess", "color"),
    [
        (100, 139.99, "green"),
        (100, 140, "orange"),
        (100, 179.99, "orange"),
        (100, 180, "red"),
        (500, 599.99, "green"),
        (500, 600, "orange"),
        (500, 699.99, "orange"),
        (500, 700, "red"),
        (0, 39.99, "green"),
        (0, 40, "orange"),
        (0, 80, "red"),
    ],
)
def test_the_reference_colors_at_their_edges(truth, guess, color):
    assert reference_colors([truth], [guess]).tolist() == [color]


@given(arrays(float, st.integers(2, 50), elements=dollars))
def test_the_running_mean_ends_at_the_mean_and_its_standard_error(values):
    mean, half = running_mean(values)
    assert mean[-1] == pytest.approx(values.mean())
    expected = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert half[-1] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert half[0] == 0


def test_pinball_is_least_at_the_empirical_quantile():
    truth = np.random.default_rng(0).lognormal(4, 1, 501)
    for level in (0.1, 0.5, 0.9):
        best = pinball(truth, np.full(501, np.quantile(truth, level)), level)
        for other in np.quantile(truth, [level - 0.05, level + 0.05]):
            assert pinball(truth, np.full(501, other), level) > best
    assert pinball([10.0], [4.0], 0.5) == 3.0  # half the absolute error at the median


def test_an_interval_pays_for_its_width_and_for_what_it_misses():
    assert interval_score([5.0], [4.0], [8.0], 0.8) == 4.0
    assert interval_score([1.0], [4.0], [8.0], 0.8) == pytest.approx(4 + 10 * 3)
    assert coverage([4.0, 8.0, 9.0, 3.9], [4.0] * 4, [8.0] * 4) == 0.5


def test_interval_scores_of_a_table():
    table = pd.DataFrame({"price": [10.0, 20.0], "crps": [1.0, 3.0], "q50": [10.0, 24.0]})
    table["unparsed"] = [False, True]
    table[["price_mass", "dropped_mass"]] = [[0.5, 0.0], [1.0, 0.1]]
    table[["low_80", "high_80", "raw_low_80", "raw_high_80"]] = [[5, 15, 9, 11], [5, 15, 19, 22]]
    found = table_scores(table, (80,))
    assert found["unparsed_rate"] == 0.5
    assert found["crps"] == 2 and found["price_mass"] == 0.75 and found["pinball"] == 1
    assert found["coverage_80"] == 0.5 and found["raw_coverage_80"] == 1
    assert found["width_80"] == 10 and found["raw_width_80_median"] == 2.5
    assert found["interval_score_80"] == pytest.approx(10 + 10 * 5 / 2)


def test_the_calibration_curve_of_uniform_pits_is_the_diagonal():
    levels, shares = calibration_curve((np.arange(1000) + 0.5) / 1000)
    np.testing.assert_allclose(levels, shares, atol=1e-3)


def test_a_constant_truth_is_explained_by_a_perfect_prediction_alone():
    truth = np.full(20, 7.0)
    assert one(truth, truth, 50).intervals["r2"] == Interval(1, 1)
    assert one(truth, truth + 1, 50).intervals["r2"] == Interval(0, 0)


def test_the_page_names_every_metric():
    page = (ROOT / "docs/evaluation.md").read_text()
    for name, metric in (METRICS | TABLE_METRICS | INTERVAL_METRICS).items():
        row = f"| `{name.format(80)}` | {metric.unit} | {metric.description} | {metric.best} |"
        assert row in page


def test_similarities_fall_in_their_band_and_no_neighbour_in_the_lowest():
    bands = similarity_bands([float("nan"), 0.0, 0.2, 0.29, 0.3, 0.699, 0.7, 1.0])
    assert list(bands) == ["below 0.2"] * 2 + ["0.2 to 0.3"] * 2 + [
        "0.3 to 0.5",
        "0.5 to 0.7",
        "0.7 and up",
        "0.7 and up",
    ]


def test_the_surest_are_answered_first_by_their_intervals_in_log_dollars():
    """The dear product's interval is the widest in dollars and the narrowest in log dollars."""
    table = pd.DataFrame(
        {
            "price": [10.0, 900.0, 20.0, 0.0],
            "estimate_usd": [12.0, 890.0, 40.0, 5.0],
            "low_80": [8.0, 800.0, 10.0, 0.0],
            "high_80": [16.0, 999.0, 60.0, 30.0],
        }
    )
    told = risk_coverage(table)
    assert told["share_answered"].tolist() == [0.25, 0.5, 0.75, 1]
    assert told["mae_usd"].tolist() == [10, 6, pytest.approx(32 / 3), 9.25]
    assert told["median_ape"].tolist() == pytest.approx([10 / 900, (10 / 900 + 0.2) / 2, 0.2, 0.6])


def test_many_products_are_answered_in_about_a_hundred_shares(items):
    shares = risk_coverage(make_predictions(items, 0.4, 0))["share_answered"]
    assert 90 < len(shares) <= 96 and shares.is_monotonic_increasing
    assert shares.iloc[0] == pytest.approx(0.05, abs=0.01) and shares.iloc[-1] == 1
