from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pricer.errors import PricerError
from pricer.params import Point
from pricer.prices.distribution import (
    ESTIMATES,
    KINDS,
    calibrated,
    calibration_offsets,
    conformal_offset,
    crps,
    fit_center,
    interval,
    mean,
    median,
    mode,
    pit,
    quantile,
    recentered,
    smallest_calibration,
)
from pricer.prices.record import Calibration

weights = arrays(float, (3, 40), elements=st.floats(0, 1)).filter(
    lambda drawn: (drawn.sum(axis=1) > 0.01).all()
)


def normalised(drawn: np.ndarray) -> np.ndarray:
    return drawn / drawn.sum(axis=1, keepdims=True)


def log_normal(centers, sigma: float, top: int = 1000) -> np.ndarray:
    """Discretised log-normal distributions with the given medians."""
    log_values = np.log1p(np.arange(top))
    z = (log_values - np.log1p(np.asarray(centers))[:, None]) / sigma
    return normalised(np.exp(-(z**2) / 2))


@given(weights)
def test_the_median_minimises_the_expected_absolute_error_and_the_mean_the_squared(drawn):
    probabilities, values = normalised(drawn), np.arange(40)
    absolute = probabilities @ np.abs(values[:, None] - values)  # (3, guesses)
    medians = quantile(probabilities, 0.5).astype(int)
    assert np.allclose(np.take_along_axis(absolute, medians[:, None], 1)[:, 0], absolute.min(1))
    squared = probabilities @ np.square(values[:, None] - mean(probabilities))
    for shift in (-0.5, 0.5):
        other = probabilities @ np.square(values[:, None] - mean(probabilities) - shift)
        assert (np.diag(other) > np.diag(squared)).all()


@given(weights, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_are_monotone_and_intervals_nested(drawn, one, other):
    probabilities = normalised(drawn)
    low, high = min(one, other), max(one, other)
    assert (quantile(probabilities, low) <= quantile(probabilities, high)).all()
    (outer_low, outer_high), (inner_low, inner_high) = (
        interval(probabilities, high),
        interval(probabilities, low),
    )
    assert (outer_low <= inner_low).all() and (inner_high <= outer_high).all()


def test_a_point_mass_is_its_own_estimate_and_scores_its_absolute_error():
    sure = np.eye(1000)[[219]]
    assert quantile(sure, 0.5) == mode(sure) == mean(sure) == 219
    assert crps([219], sure) == pytest.approx(0) and crps([200.5], sure) == pytest.approx(18.5)


@given(weights, st.floats(0, 39))
def test_crps_is_the_mean_pinball_loss_over_all_quantiles(drawn, truth):
    probabilities = normalised(drawn)
    levels = (np.arange(4000) + 0.5) / 4000
    for row in probabilities:
        quantiles = np.searchsorted(row.cumsum(), levels).clip(max=39)
        pinball = np.maximum(levels * (truth - quantiles), (levels - 1) * (truth - quantiles))
        assert crps([truth], row[None])[0] == pytest.approx(2 * pinball.mean(), abs=0.05)


def test_pit_of_honest_forecasts_is_uniform():
    rng = np.random.default_rng(0)
    probabilities = log_normal(rng.uniform(5, 300, 4000), 0.6)
    truth = [rng.choice(1000, p=row) for row in probabilities]
    counts, _ = np.histogram(pit(truth, probabilities), bins=10, range=(0, 1))
    assert np.abs(counts - 400).max() < 80


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_calibrated_intervals_cover_what_they_say_on_average(level):
    """Marginal coverage over 200 draws of calibration and test products, overconfident model."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        centers = rng.uniform(5, 400, 60)
        truth = np.expm1(np.log1p(centers) + rng.normal(0, 0.8, 60)).clip(0)
        low, high = interval(log_normal(centers, 0.4), level)
        offset = conformal_offset(truth[:40], low[:40], high[:40], level)
        grown_low, grown_high = calibrated(low[40:], high[40:], offset)
        covered.append(((truth[40:] >= grown_low) & (truth[40:] <= grown_high)).mean())
    error = np.std(covered) / np.sqrt(len(covered))
    assert level - 2 * error <= np.mean(covered) <= level + 1 / 41 + 2 * error


@given(weights, st.floats(-9, 9), st.floats(0, 9))
def test_wherever_distributions_are_moved_they_stay_distributions(drawn, intercept, slope):
    moved = recentered(normalised(drawn), intercept, slope)
    assert (moved > -1e-12).all()
    np.testing.assert_allclose(moved.sum(axis=1), 1)
    np.testing.assert_allclose(
        recentered(normalised(drawn), 1e-14, 1), normalised(drawn), atol=1e-12
    )


@pytest.mark.parametrize(("intercept", "slope"), [(0.4, 1.0), (-0.7, 1.2), (3.0, 0.0), (1, 0.8)])
def test_medians_are_moved_in_log_dollars_and_the_width_there_stays(intercept, slope):
    before = log_normal([25.0, 60.0, 140.0], 0.15)
    after = recentered(before, intercept, slope)
    logs, moved = np.log1p(median(before)), np.log1p(median(after))
    np.testing.assert_allclose(moved, intercept + slope * logs, atol=0.04)  # to the whole dollar
    for probabilities in (before, after):
        low, high = interval(probabilities, 0.8)
        np.testing.assert_allclose(np.log1p(high) - np.log1p(low), 0.15 * 2.563, atol=0.08)


def test_what_is_moved_beyond_all_prices_stays_at_the_last():
    one = np.eye(40)[[10]]
    assert recentered(one, 9, 1)[0, -1] == recentered(one, -9, 1)[0, 0] == 1
    assert np.isnan(recentered(np.full((1, 40), np.nan), 0.1, 1)).any()  # told as unusable


def held_back(n: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Prices, and forecasts with medians that should be `slope` as far from each other."""
    rng = np.random.default_rng(5)
    centers = np.exp(rng.normal(4, 0.8, n))
    truth = np.exp(np.log(centers) + rng.normal(0, 0.3, n)).clip(1, 900)
    said = log_normal(np.exp(4 + (np.log(centers) - 4) / slope), 0.3)
    return truth, normalised(said / np.arange(1, 1001))  # a dollar is less of a high price


def test_forecasts_that_hold_back_are_found_out():
    truth, said = held_back(300, 1.5)
    intercept, slope = fit_center(truth[:200], said[:200])
    assert slope == pytest.approx(1.5, abs=0.1)
    after = recentered(said[200:], intercept, slope)
    for score in (crps, lambda y, p: np.abs(median(p) - y)):
        assert score(truth[200:], after).mean() < 0.8 * score(truth[200:], said[200:]).mean()


@pytest.mark.parametrize("n", [1, 2, 9, 30, 200])
def test_what_is_right_on_average_stays(n):
    assert fit_center(*held_back(n, 1.0)) == (0, 1)
    alike = np.eye(40)[[20] * n]
    assert fit_center([20.0] * n, alike) == (0, 1)
    if n > 2:  # and where all medians are wrong alike, they are moved alike
        assert fit_center([30.0] * n, alike) == (pytest.approx(np.log(31 / 21)), 1)


def test_medians_that_hardly_differ_may_say_all():
    truth, said = [40.0, 400.0] * 50, np.eye(1000)[[99, 100] * 50]
    intercept, slope = fit_center(truth, said)
    assert slope > 100
    Calibration(method="made up", n=100, offsets={}, intercept=intercept, slope=slope)
    np.testing.assert_allclose(median(recentered(said, intercept, slope)), truth, atol=1)


def test_too_few_products_to_calibrate_on_are_told():
    low, high = np.array([1.0] * 8), np.array([9.0] * 8)
    with pytest.raises(PricerError, match="an interval of 90% needs at least 9 products.*got 8"):
        conformal_offset([5.0] * 8, low, high, 0.9)
    assert smallest_calibration(0.8) == 4 and smallest_calibration(0.5) == 1
    probabilities = np.full((8, 40), 1 / 40)
    assert max(map(int, calibration_offsets([5.0] * 8, probabilities))) == 88


def test_too_wide_intervals_shrink_but_never_turn_inside_out():
    low, high = calibrated(np.array([10.0, 50.0]), np.array([20.0, 50.0]), -2.0)
    assert (low <= high).all() and low[1] == high[1] == pytest.approx(50)
    low, high = calibrated(np.array([1.0]), np.array([5.0]), 3.0)
    assert low[0] == 0 and high[0] > 5


def test_the_kinds_of_estimate_are_those_that_params_allow():
    assert get_args(Point) == KINDS == (*ESTIMATES, "greedy")
