import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from pricer.judging.metrics import (
    BANDS,
    LARGEST_CATEGORIES,
    OTHER,
    calibration_curve,
    category_groups,
    coverage,
    evaluate,
    interval_score,
    interval_scores,
    mae,
    mse,
    paired_differences,
    pinball,
    price_bands,
    r2,
    reference_colors,
    resampled_means,
    running_mean,
    scores,
    slice_scores,
)

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
    return evaluate(truth, {"a": np.asarray(guess)}, resamples=resamples, seed=seed)["a"]


def test_intervals_hold_the_score_and_follow_the_seed():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(4, 1, 400)
    guess = truth * rng.lognormal(0, 0.5, 400)
    found = one(truth, guess)
    assert found == one(truth, guess)
    assert found != one(truth, guess, seed=2)
    for name in ("mae", "mse", "r2"):
        assert found[f"{name}_ci_low"] < found[name] < found[f"{name}_ci_high"]
    # the normal approximation agrees for a mean
    half = 1.96 * np.abs(guess - truth).std() / 20
    assert found["mae_ci_high"] - found["mae_ci_low"] == pytest.approx(2 * half, rel=0.1)


def test_intervals_do_not_depend_on_the_order_of_products_nor_on_other_predictors():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(4, 1, 100)
    guesses = {name: truth * rng.lognormal(0, 0.5, 100) for name in "ab"}
    found = evaluate(truth, guesses, resamples=50, seed=3)
    order = rng.permutation(100)
    shuffled = {name: guess[order] for name, guess in guesses.items()}
    for name, score in evaluate(truth[order], shuffled, resamples=50, seed=3).items():
        assert score == pytest.approx(found[name], rel=1e-12)
    assert one(truth, guesses["a"], 50, 3) == pytest.approx(found["a"], rel=1e-12)


def test_resampled_means_are_means_of_rows_drawn_with_replacement():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2))
    means = resampled_means(values, resamples=4000, seed=0)
    assert means.shape == (4000, 2)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.02)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(30), rel=0.05)
    # columns share the draws
    np.testing.assert_allclose(
        resampled_means(values @ [[1], [1]], resamples=50, seed=1)[:, 0],
        resampled_means(values, resamples=50, seed=1).sum(axis=1),
    )


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        error = rng.normal(0, 10, 300)
        interval = one(np.full(300, 50.0), 50 + error, resamples=400, seed=draw)
        covered += interval["mae_ci_low"] < 10 * np.sqrt(2 / np.pi) < interval["mae_ci_high"]
    assert 0.90 <= covered / 200 <= 0.99


def test_other_scores_by_hand():
    found = scores([10.0, 100.0, 200.0, 0.0], [20.0, 100.0, 50.0, 90.0])
    assert found["n"] == 4 and found["mae"] == 62.5 and found["bias"] == -12.5
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
    assert len(groups.categories) == LARGEST_CATEGORIES + 1 and (groups == OTHER).sum() == 1 + 2 + 3


def test_slices_are_scores_of_their_products():
    rng = np.random.default_rng(0)
    truth = rng.lognormal(4, 1, 200)
    guesses = {"a": truth + rng.normal(0, 20, 200), "b": np.full(200, np.nan)}
    inside = {"a": rng.random(200) < 0.8}
    bands = price_bands(truth)
    found = slice_scores(truth, guesses, bands, covered=inside, resamples=300, seed=0)
    assert sum(own["n"] for own in found["a"].values()) == 200
    for band, own in found["a"].items():
        rows = np.asarray(bands == band)
        assert own["mae"] == pytest.approx(mae(truth[rows], guesses["a"][rows]))
        assert own["mae_ci_low"] < own["mae"] < own["mae_ci_high"]
        assert own["coverage_80"] == inside["a"][rows].mean()
        assert found["b"][band]["mae"] == pytest.approx(truth[rows].mean())  # no number is $0
        assert "coverage_80" not in found["b"][band]


def test_predictions_without_a_number_count_as_zero_and_are_reported():
    truth = np.array([10.0, 20.0])
    result = evaluate(truth, {"tuned": np.array([10.0, np.nan])}, resamples=10, seed=0)["tuned"]
    assert result["mae"] == 10 and result["unparsed_rate"] == 0.5 and result["n"] == 2


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


def test_what_two_predictors_share_cancels_out_of_their_difference():
    rng = np.random.default_rng(1)
    truth = rng.lognormal(4, 1, 300)
    own = truth + rng.normal(0, 50, 300)
    better = truth + (own - truth) / 1.1
    gaps = paired_differences(truth, own, {"own": own, "better": better}, resamples=500, seed=0)
    assert gaps["own"] == {"mae": 0.0, "mae_ci_low": 0.0, "mae_ci_high": 0.0}
    gap = gaps["better"]
    assert 0 < gap["mae_ci_low"] < gap["mae"] < gap["mae_ci_high"]
    assert gap["mae"] == pytest.approx(0.1 * mae(truth, better))


def test_interval_scores_of_a_table():
    table = pd.DataFrame({"price": [10.0, 20.0], "crps": [1.0, 3.0], "q50": [10.0, 24.0]})
    table[["price_mass", "dropped_mass"]] = [[0.5, 0.0], [1.0, 0.1]]
    table[["low_80", "high_80", "raw_low_80", "raw_high_80"]] = [[5, 15, 9, 11], [5, 15, 19, 22]]
    found = interval_scores(table, (80,))
    assert found["crps"] == 2 and found["price_mass"] == 0.75 and found["pinball"] == 1
    assert found["coverage_80"] == 0.5 and found["raw_coverage_80"] == 1
    assert found["width_80"] == 10 and found["raw_width_80_median"] == 2.5
    assert found["interval_score_80"] == pytest.approx(10 + 10 * 5 / 2)


def test_the_calibration_curve_of_uniform_pits_is_the_diagonal():
    levels, shares = calibration_curve((np.arange(1000) + 0.5) / 1000)
    np.testing.assert_allclose(levels, shares, atol=1e-3)
