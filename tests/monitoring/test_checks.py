"""What alarms and what does not, on streams that are made for it."""

import numpy as np
import pandas as pd
import pytest

from pricer.monitoring.checks import CHECKS, compare
from pricer.monitoring.errors import expected_mae, mae_of_all, realised, share_of
from pricer.monitoring.observed import observed
from pricer.monitoring.shift import shift, wasserstein
from pricer.monitoring.since import since
from pricer.monitoring.texts import wording

ALPHA = 0.05 / (20 * len(CHECKS))
NOUNS = "kettle lamp chair drill mixer tent jacket printer guitar kayak".split()
WORDS = "steel oak small large quiet red blue light strong folding new classic simple".split()


def stream(n, seed):
    """Products with honest intervals, as a service would have priced them."""
    rng = np.random.default_rng(seed)
    estimate = np.exp(rng.normal(4, 0.8, n))
    price = estimate * np.exp(rng.normal(0, 0.2, n))
    nouns = rng.choice(NOUNS, n)
    texts = [f"{noun} {' '.join(rng.choice(WORDS, 8))}" for noun in nouns]
    return pd.DataFrame(
        {
            "estimate_usd": estimate,
            "low_usd": estimate * np.exp(-0.256),
            "high_usd": estimate * np.exp(0.256),
            "level": 80.0,
            "width_usd": estimate * 0.5 * np.exp(rng.normal(0, 0.1, n)),
            "price_mass": 1 - rng.beta(1, 200, n),
            "truncated": (rng.random(n) < 0.05).astype(float),
            "similarity": rng.beta(6, 3, n),
            "expected_error_usd": estimate * 0.16,
            "fallback": (rng.random(n) < 0.01).astype(float),
            "price_usd": price,
            "rank": rng.integers(0, 8, n).astype(float),
            "text": pd.Series(texts, dtype=object),
            "text_key": rng.integers(2**60, size=n),
            "category": pd.Series(nouns, dtype=object),
            "at": pd.date_range("2026-11-01", periods=n, freq="min", tz="UTC"),
        }
    )


def alarms(period, seed=1_000, n=400):
    reference = stream(n, seed)
    found, _ = compare(
        observed("reference", reference, reference),
        observed("period", period, period),
        set(NOUNS),
        ALPHA,
    )
    return {name: one for name, one in found.items() if one.alarmed}


def test_streams_without_change_rarely_alarm():
    # each of 20 series of 5 looks at 20 times fewer than the stated 5% a series of 20
    looks = [alarms(stream(200, seed), seed=10_000 + seed // 5) for seed in range(100)]
    assert sum(map(bool, looks)) <= 2  # more than that has a chance of 0.4% at 5% in 20 looks


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.assign(price_usd=t["price_usd"] * 1.3), {"bias"}),
        (lambda t: t.assign(category="drone"), {"unknown_category"}),
        (lambda t: t.assign(text=[" ".join(x.split()[:3]) for x in t["text"]]), {"words"}),
        (lambda t: t.assign(fallback=np.arange(len(t)) % 5 == 0), {"fallback"}),
        (lambda t: t.assign(price_mass=t["price_mass"] * 0.8), {"price_mass"}),
        (lambda t: t.assign(high_usd=t["low_usd"] + 1), {"coverage"}),
        (lambda t: t.assign(similarity=t["similarity"] * 0.6), {"similarity"}),
    ],
)
def test_each_change_is_found_by_the_check_that_is_for_it(change, expected):
    found = alarms(change(stream(400, 7)))
    assert expected <= set(found)
    [name] = expected
    assert found[name].products and found[name].since.low == 0


def test_a_change_in_the_middle_is_dated():
    table = stream(600, 3)
    late = np.arange(600) >= 350
    table.loc[late & (table.index % 2 == 0), "category"] = "drone"
    found = alarms(table)["unknown_category"]
    assert found.since.low <= 350 <= found.since.high + 5
    assert abs(found.since.place - 350) < 15
    assert found.at == table["at"].iloc[found.since.place]
    assert found.category.startswith("drone (125 of 125)")


def test_a_product_that_is_asked_often_is_one():
    table = stream(300, 5)
    crowd = pd.concat([table, *[table.tail(1)] * 5_000], ignore_index=True)
    seen = observed("period", crowd, crowd)
    assert len(seen.estimates) == 300 and seen.asked == 5_300
    assert not alarms(crowd)


def test_the_p_value_is_exact_also_of_rare_events():
    rng = np.random.default_rng(0)
    pairs = [((rng.random(100) < 0.03) * 1.0, (rng.random(60) < 0.03) * 1.0) for _ in range(1_000)]
    small = [shift(*pair, alpha=0.05, seed=n).p_value <= 0.05 for n, pair in enumerate(pairs)]
    assert np.mean(small) <= 0.07
    # one event where the reference has none is no alarm, many are
    none = np.zeros(300)
    assert shift(none, np.eye(1, 300)[0], ALPHA, 0).p_value > 0.5
    assert shift(none, (np.arange(300) % 10 == 0) * 1.0, ALPHA, 0).p_value < ALPHA


def test_too_few_values_are_not_compared():
    assert shift(np.zeros(100), np.full(100, np.nan), ALPHA, 0) is None


def test_a_shift_says_how_far_and_where():
    values = np.arange(1_000.0)
    found = shift(values, values + 100, ALPHA, 0)
    assert found.distance == pytest.approx(0.1, abs=0.01) and found.more_above
    assert wasserstein(values, values + 100) == pytest.approx(100)


def test_words_that_give_texts_away_are_named():
    old, new = stream(300, 1)["text"].tolist(), stream(300, 2)["text"].tolist()
    same = wording(old, new, 0)
    assert same.interval.holds(0.5) and same.p_value > 0.01 and not same.more
    told = wording(old, [text.replace("steel", "titanium") for text in new], 0)
    assert told.p_value < 1e-6 and told.auc > 0.6
    assert told.more == ["titanium"] and told.less == ["steel"]
    assert wording(["?"] * 30, ["!"] * 30, 0) is None


def test_a_change_before_the_period_is_dated_to_its_beginning():
    rng = np.random.default_rng(0)
    assert since(rng.random(300) < 0.1, rng.random(200) < 0.6, 0).low == 0


def test_the_error_to_expect_is_that_of_the_outcomes():
    reference, period = stream(2_000, 1), stream(2_000, 2)
    expected, told = expected_mae(reference, period), realised(period)
    assert expected.value == pytest.approx(told["mae"].value, rel=0.1)
    assert expected.interval.holds(told["mae"].value)
    assert told["coverage_80"].value == pytest.approx(0.8, abs=0.03)
    assert told["bias"].interval.low < 0 < told["bias"].interval.high + 2


def test_the_error_of_all_is_told_from_what_sold_where_cheap_products_sell_sooner():
    every = stream(4_000, 7).assign(fallback=0.0)
    cheap = every["estimate_usd"] < every["estimate_usd"].quantile(0.6)
    sold = every[np.random.default_rng(7).random(len(every)) < np.where(cheap, 0.5, 0.1)]
    truth = float((every["estimate_usd"] - every["price_usd"]).abs().mean())
    naive, found = realised(sold)["mae"], mae_of_all(sold, every)
    assert found and naive.interval.high < truth
    assert found.interval.low < truth < found.interval.high
    # all known: the mean itself
    whole = mae_of_all(every, every)
    assert whole and whole.value == pytest.approx(truth)
    # nothing is said of fifths of which nothing is known
    assert mae_of_all(every[every["estimate_usd"] < 50], every) is None


def test_texts_that_recur_on_both_sides_do_not_hide_those_that_changed():
    texts = stream(300, 3)["text"].tolist()
    cut = [" ".join(text.split()[:3]) for text in texts[:100]]
    changed, same = wording(texts, texts[100:] + cut, 1), wording(texts, texts, 1)
    assert changed and changed.p_value < 1e-3
    assert same and same.p_value > 0.05 and same.interval.low <= 0.5
    # one text, again and again, is no reason to fail
    alike = wording(["a b"] * 30, ["a b"] * 30, 1)
    assert alike is None or alike.p_value > 0.05


def test_the_product_that_a_change_began_with_is_counted_among_all():
    period = stream(300, 5)
    period.loc[:99, "fallback"] = 1.0
    period.loc[100:, "fallback"] = 0.0
    period.loc[200:, "price_usd"] *= 2
    began = alarms(period)["bias"].since
    assert began.low <= 200 <= began.high and 190 <= began.place <= 210


@pytest.mark.parametrize(("held", "n"), [(40, 40), (39, 40), (0, 40)])
def test_a_share_and_its_interval_are_shares(held, n):
    """Wilson's interval for 39 of 40: 0.8712 to 0.9956 (Brown, Cai and DasGupta 2001, eq. 4)."""
    share = share_of(np.array([1.0] * held + [0.0] * (n - held) + [np.nan]))
    assert share and share.n == n and share.value == held / n
    assert 0 <= share.interval.low <= share.value <= share.interval.high <= 1
    if held == 39:
        assert (share.interval.low, share.interval.high) == pytest.approx(
            (0.8712, 0.9956), abs=1e-4
        )
