import json

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from pricer.errors import CONTROLS, ItemsError
from pricer.escaping import json_text
from pricer.judging.comparison import (
    Comparison,
    compare,
    comparison_json,
    comparison_text,
    round_up,
    sign_flip_p,
)
from pricer.judging.metrics import mae
from pricer.judging.paired import Bootstrap
from pricer.prices.predictions import no_number_is_zero
from pricer.tables import interval_text


def predictions(rng, n: int = 300, spread: float = 30.0, shift: float = 0.0) -> pd.DataFrame:
    """Estimates whose error has a given spread and shift, in dollars."""
    price = np.random.default_rng(99).lognormal(4, 1, n)
    estimate = price + shift + rng.normal(0, spread, n)
    return pd.DataFrame(
        {"id": np.arange(n), "price": price, "estimate_usd": estimate, "crps": abs(estimate)}
    )


def judge(a, b, items=None, resamples=400, seed=0) -> Comparison:
    return compare(a, b, items, Bootstrap(resamples, seed))


def run(a, b, items=None, resamples=400, seed=0):
    return comparison_json(judge(a, b, items, resamples, seed))


def test_a_against_a_is_exactly_zero():
    a = predictions(np.random.default_rng(0))
    found = run(a, a)
    for delta in found["delta"].values():
        assert delta == {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0, "p_value": 1.0}
    assert found["win_rate"] == 0.5 and found["moved"] == []
    assert found["verdict"] == "A and B are equally good: their errors do not differ (n=300)"


def test_b_against_a_is_a_against_b_mirrored():
    rng = np.random.default_rng(1)
    a, b = predictions(rng), predictions(rng, spread=40)
    one, other = run(a, b), run(b, a)
    for name in ("mae", "mse", "crps"):
        there, back = one["delta"][name], other["delta"][name]
        assert there["value"] == -back["value"] and there["p_value"] == back["p_value"]
        assert there["ci_low"] == pytest.approx(-back["ci_high"], rel=1e-12)
    assert one["win_rate"] == pytest.approx(1 - other["win_rate"])
    assert one["a"] == other["b"]
    for group, there in one["slices"]["price"].items():
        assert there["mae"] == -other["slices"]["price"][group]["mae"]


def test_the_difference_is_of_the_mean_absolute_errors_and_the_order_of_rows_is_nothing():
    rng = np.random.default_rng(2)
    a, b = predictions(rng), predictions(rng, spread=45)
    found = run(a, b)
    expected = mae(b["price"], b["estimate_usd"]) - mae(a["price"], a["estimate_usd"])
    assert found["delta"]["mae"]["value"] == pytest.approx(expected)
    assert run(a.sample(frac=1, random_state=3), b.sample(frac=1, random_state=4)) == found
    assert run(a, b, seed=1) != found


@pytest.mark.slow
def test_a_known_shift_is_found_and_none_is_not():
    """Over 200 draws: a test at 5% is wrong in 5% of them, give or take its sampling error."""
    rng = np.random.default_rng(3)
    found = {"null": 0, "null p": 0, "shift": 0}
    for draw in range(200):
        # the same products' difficulty in both: only a paired comparison sees past it
        hard = predictions(rng, 120, spread=80)
        noise = rng.normal(0, 10, (2, 120))
        direction = np.sign(hard["estimate_usd"] - hard["price"])
        a = hard.assign(estimate_usd=hard["estimate_usd"] + noise[0] * direction)
        null = hard.assign(estimate_usd=hard["estimate_usd"] + noise[1] * direction)
        worse = hard.assign(estimate_usd=hard["estimate_usd"] + (noise[1] + 6) * direction)
        delta = run(a, null, resamples=300, seed=draw)["delta"]["mae"]
        found["null"] += not delta["ci_low"] <= 0 <= delta["ci_high"]
        found["null p"] += delta["p_value"] < 0.05
        found["shift"] += run(a, worse, resamples=300, seed=draw)["delta"]["mae"]["ci_low"] > 0
    # three standard errors of a share of 5% in 200 draws: 4.6 points
    assert found["null"] / 200 <= 0.05 + 0.046 and found["null p"] / 200 <= 0.05 + 0.046
    assert found["shift"] / 200 >= 0.9


def test_the_sign_flip_p_is_exact_where_all_flips_can_be_counted():
    difference = np.array([1.0, 2.0, 3.0, -0.5, 4.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    exact = (np.abs(difference @ signs) >= abs(difference.sum())).mean()
    assert sign_flip_p(difference, Bootstrap(40_000, seed=0)) == pytest.approx(exact, abs=0.01)


def test_products_that_one_has_not_judged_are_left_out_and_counted():
    a = predictions(np.random.default_rng(4), 50)
    found = run(a.iloc[:40], a.iloc[10:].assign(estimate_usd=lambda t: t["estimate_usd"] + 1))
    assert (found["n"], found["only_a"], found["only_b"]) == (30, 10, 10)


def test_sets_that_cannot_be_compared_are_refused():
    a = predictions(np.random.default_rng(5), 20)
    with pytest.raises(ItemsError, match=r"share no product \(A has judged 20, B 20\)"):
        run(a, a.assign(id=a["id"] + 1000))
    with pytest.raises(ItemsError, match="different true prices for 20 of 20"):
        run(a, a.assign(price=a["price"] + 1))


def test_a_difference_of_the_told_size_is_told_in_four_of_five_cases():
    rng = np.random.default_rng(11)
    a = predictions(rng, 100)
    a["estimate_usd"] = a["price"] + 2000  # so that B's errors are on the same side
    sizes, told = [], 0
    for _ in range(100):
        worse = rng.normal(6, 20, 100)
        found = judge(a, a.assign(estimate_usd=a["estimate_usd"] + worse), resamples=200)
        sizes.append(found.detectable_usd)
        told += found.delta["mae"].is_clear
    assert np.mean(sizes) == pytest.approx(2.802 * 20 / 10, rel=0.02)  # $5.60
    assert 75 <= told <= 95
    text = comparison_text(found, "A", "B", markdown=False)
    assert f"n=100 tells a true difference of ${found.detectable_usd:.2f} in 80% of cases" in text


def test_the_verdict_says_how_many_products_would_be_needed():
    rng = np.random.default_rng(6)
    hard = predictions(rng, 100)
    found = run(hard, hard.assign(estimate_usd=hard["price"] + rng.normal(3, 30, 100)))
    needed = found["products_needed"]
    assert needed > 100
    assert found["verdict"] == (
        f"no difference can be told at n=100; about {round_up(needed):,} products would be needed"
    )
    # the same thing said the other way round
    assert needed == pytest.approx(
        100 * (found["detectable_usd"] / found["delta"]["mae"]["value"]) ** 2, rel=0.01
    )
    better = run(
        hard, hard.assign(estimate_usd=hard["price"] + (hard["estimate_usd"] - hard["price"]) / 2)
    )
    assert better["verdict"].startswith("B is better by $") and better["products_needed"] is None


def test_a_greedy_estimate_without_a_number_counts_as_zero():
    a = predictions(np.random.default_rng(7), 30)
    b = no_number_is_zero(a.assign(estimate_usd=np.nan))
    assert run(a, b)["b"]["mae"] == pytest.approx(a["price"].mean())


@pytest.mark.parametrize("markdown", [False, True])
def test_it_is_told_to_people(markdown):
    rng = np.random.default_rng(8)
    a, b = predictions(rng, 60), predictions(rng, 60, spread=90).drop(columns="crps")
    items = pd.DataFrame({"id": np.arange(60), "title": "a | b\nc", "category": "Toys"})
    found = judge(a, b, items)
    text = comparison_text(found, "main", "workspace", markdown=markdown)
    assert found.verdict in text and "A: main" in text and "60 products" in text
    assert "Toys" in text and "$25 to $100" in text and "MSE" in text and "CRPS" not in text
    assert len(found.moved) == 10
    assert ("a \\| b c" if markdown else "a | b c") in text
    assert ("|:--" in text) == markdown


HOSTILE = "\x1b[2J| ![a](http://e.example/a.png) <script>\n# heading \u202e"


def test_what_products_and_predictors_are_called_is_text():
    rng = np.random.default_rng(9)
    a, b = predictions(rng, 60), predictions(rng, 60, spread=90)
    items = pd.DataFrame({"id": [*range(60), 3], "title": HOSTILE, "category": HOSTILE})
    found = judge(a, b, items)
    assert found.n == 60 and len(found.slices["category"]) == 1
    for markdown in (False, True):
        text = comparison_text(found, HOSTILE, HOSTILE, markdown=markdown)
        assert not CONTROLS.search(text.replace("\n", "")) and r"\x1b" in text.replace("\\\\", "\\")
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    kinds = [child.type for token in tokens for child in (token, *(token.children or ()))]
    assert not {"image", "link_open", "heading_open", "html_inline", "html_block"} & set(kinds)
    assert kinds.count("table_open") == 4
    printed = json_text({"a_is": HOSTILE} | comparison_json(found))
    assert json.loads(printed)["moved"][0]["title"] == HOSTILE
    assert not CONTROLS.search(printed.replace("\n", ""))


def test_items_that_lack_a_product_leave_its_title_out():
    a = predictions(np.random.default_rng(10), 30)
    items = pd.DataFrame({"id": [0], "title": ["mug"], "category": ["Toys"]})
    found = run(a, a.assign(estimate_usd=0.0), items)
    assert {row["title"] for row in found["moved"]} <= {"", "mug"}
    assert set(found["slices"]["category"]) == {"Toys", "unknown"}


def test_ids_of_two_kinds_share_no_product():
    a = predictions(np.random.default_rng(0), 20)
    with pytest.raises(ItemsError, match="A and B share no product: the ids of one are numbers"):
        judge(a, a.assign(id=a["id"].astype(str)))
    named = a.assign(id="mug " + a["id"].astype(str))
    found = run(named, named.assign(estimate_usd=0.0))
    assert all(row["id"].startswith("mug ") for row in found["moved"])
    # items of another kind tell no category; nothing else is lost
    items = pd.DataFrame({"id": ["0"], "title": ["mug"], "category": ["Kitchen"]})
    assert "category" not in judge(a, a, items).slices


def test_a_single_product_has_no_interval():
    a = predictions(np.random.default_rng(10), 30)
    items = pd.DataFrame({"id": [0], "title": ["mug"], "category": ["Toys"]})
    text = comparison_text(judge(a, a.assign(estimate_usd=0.0), items), "A", "B", markdown=False)
    [toys] = [line.split() for line in text.splitlines() if line.startswith("Toys ")]
    assert toys[1] == "1" and toys[-1] == "-"
    assert interval_text(136.73, 136.73) == "-" and interval_text(1, 2) == "1.00 to 2.00"
