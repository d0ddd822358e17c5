"""The predictions table: made, described and read in one module."""

import math
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.errors import ItemsError, PricerError
from pricer.params import Predict
from pricer.prices.distribution import (
    ESTIMATES,
    KINDS,
    PriceDistributions,
    calibrated,
    interval,
    quantile,
)
from pricer.prices.predictions import (
    COLUMNS,
    make_predictions,
    parse_price,
    read_baselines,
    read_predictions,
)
from tests.conftest import ROOT

OFFSETS = {"50": 0.1, "80": 0.2, "90": 0.3}
TEXTS = ["219.00", "no idea", "$1,299.00 or so"]


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("219.00", 219.0),
        ("$1,299.00 or so", 1299.0),
        ("about 12 dollars", 12.0),
        (".5", 0.5),
        ("-3.5", -3.5),
        ("-3", 3.0),  # the reference rule knows signs before decimals alone
        ("7.", 7.0),
        ("", None),
        ("no idea", None),
        ("$", None),
    ],
)
def test_parse_price_is_the_reference_rule(text, price):
    assert parse_price(text) == price


@given(st.integers(0, 999))
def test_every_completion_parses_to_its_price(dollars):
    assert parse_price(f"{dollars}.00") == dollars


@pytest.fixture(scope="module")
def said() -> PriceDistributions:
    """What a model says about three products; greedy texts that are not its mode."""
    probabilities = np.random.default_rng(0).dirichlet(np.full(400, 0.1), 3)
    return PriceDistributions(probabilities, np.full(3, 0.9), np.zeros(3), TEXTS, batch_size=1)


@pytest.fixture(scope="module")
def products() -> pd.DataFrame:
    return pd.DataFrame({"id": [7, 3, 5], "price": [10.0, 20.0, 30.5], "prompt": "..."})


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_holds_every_kind_and_the_one_that_is_judged(products, said, kind):
    table = make_predictions(products, said, OFFSETS, kind=kind)
    assert list(table) == list(COLUMNS)
    assert table["id"].tolist() == [7, 3, 5] and table["price"].tolist() == [10, 20, 30.5]
    for name, estimate in ESTIMATES.items():
        np.testing.assert_array_equal(table[name], estimate(said.probabilities))
    np.testing.assert_array_equal(table["greedy"], [219, np.nan, 1299])
    np.testing.assert_array_equal(table["estimate_usd"], table[kind])
    np.testing.assert_array_equal(table["q90"], quantile(said.probabilities, 0.9))
    raw = interval(said.probabilities, 0.8)
    np.testing.assert_array_equal(table[["raw_low_80", "raw_high_80"]].T, raw)
    np.testing.assert_array_equal(table[["low_80", "high_80"]].T, calibrated(*raw, 0.2))


def test_an_interval_without_an_offset_is_told(products, said):
    with pytest.raises(PricerError, match="an interval of 90% needs at least 9 products"):
        make_predictions(products, said, {"50": 0.0, "80": 0.0}, kind="median")


def test_no_number_counts_as_zero_where_the_table_is_read(products, said, tmp_path):
    table = make_predictions(products, said, OFFSETS, kind="greedy")
    assert table["estimate_usd"].isna().sum() == 1
    table.to_parquet(tmp_path / "said.parquet")
    read = read_predictions(tmp_path / "said.parquet", "said")
    assert read["estimate_usd"].tolist() == read["greedy"].tolist() == [219, 0, 1299]
    assert read["unparsed"].tolist() == [False, True, False]
    table = make_predictions(products, said, OFFSETS, kind="median")
    table.to_parquet(tmp_path / "median.parquet")
    read = read_predictions(tmp_path / "median.parquet", "median")
    # the estimate that is judged is no text; the text's number is still compared with it
    assert not read["unparsed"].any() and read["greedy"].tolist() == [219, 0, 1299]


def test_a_table_of_three_columns_is_enough_to_be_judged(tmp_path):
    table = pd.DataFrame({"id": [1], "price": [2.0], "estimate_usd": [3.0]})
    table.to_parquet(tmp_path / "a.parquet")
    assert read_predictions(tmp_path / "a.parquet", "a")["estimate_usd"].tolist() == [3]
    table.rename(columns={"estimate_usd": "point"}).to_parquet(tmp_path / "old.parquet")
    says = r"HEAD~1: no predictions of one predictor \(estimate_usd missing, has id, price, point"
    with pytest.raises(ItemsError, match=says):
        read_predictions(tmp_path / "old.parquet", "HEAD~1")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(PricerError, match="broken: not a readable Parquet file"):
        read_predictions(tmp_path / "broken.parquet", "broken")


SOUND = {"id": [1, 2, 3], "price": [2.0, 3.0, 4.0], "estimate_usd": [3.0, None, 5.0]}


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("id", [1, 2, 2], "1 products stand in it more than once, the first is id 2"),
        ("id", [1.0, 2.0, 3.0], "ids must be all whole numbers below 2.63, or all text, got 1.0"),
        ("id", [1, 2, 2**63], "all whole numbers below 2.63, or all text"),
        ("id", [b"a", b"b", b"c"], "or all text, got b'a'"),
        ("id", [True, False, None], "or all text, got True"),
        ("price", [2.0, math.nan, 4.0], "price of product 2 must be a price above 0, got nan"),
        ("price", [2.0, 3.0, 0.0], "price of product 3 must be a price above 0, got 0"),
        ("price", ["2", "3", "4"], "price of product 1 must be a price above 0, got '2'"),
        ("estimate_usd", [3.0, math.inf, 5.0], "estimate_usd of product 2 must be a finite number"),
        ("estimate_usd", [b"3", b"4", b"5"], "must be a finite number, got b'3' .3 of 3 are not"),
        ("crps", [0.5, None, 0.5], "crps of product 2 must be a finite number from 0, got nan"),
        ("crps", [0.5, -1.0, 0.5], "crps of product 2 must be a finite number from 0, got -1.0"),
        ("price", [2.0, 3.0, 1e30], "price of product 3 must be a price above 0"),
        ("estimate_usd", [3.0, 1e200, 5.0], "estimate_usd of product 2 must be a finite number"),
        ("price_mass", [0.5, 1.5, 0.5], "price_mass of product 2 must be a number from 0 to 1"),
        ("median", ["1", "2", "3"], "median of product 1 must be a finite number, got '1'"),
        ("low_80", [True, False, True], "low_80 of product 1 must be a finite number, got True"),
    ],
)
def test_what_is_no_number_or_no_product_is_told(tmp_path, column, values, says):
    pd.DataFrame(SOUND | {column: values}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ItemsError, match=f"^A: .*{says}"):
        read_predictions(tmp_path / "a.parquet", "A")


@pytest.mark.parametrize("ids", [["a", "b", "c"], [2**53 + 1, 5, -(2**63)], ["1", "2", "3"]])
def test_ids_are_what_the_file_says(tmp_path, ids):
    pd.DataFrame(SOUND | {"id": ids}).to_parquet(tmp_path / "a.parquet")
    assert read_predictions(tmp_path / "a.parquet", "A")["id"].tolist() == ids


def test_baselines_without_a_number_are_told(tmp_path):
    baselines = pd.DataFrame({"id": [1, 2], "price": [2.0, 3.0], "ridge": [-5.0, math.nan]})
    baselines.head(1).to_parquet(tmp_path / "a.parquet")
    assert read_baselines(tmp_path / "a.parquet", "A")["ridge"].tolist() == [-5]
    baselines.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ItemsError, match="A: ridge of product 2 must be a finite number, got nan"):
        read_baselines(tmp_path / "a.parquet", "A")


def test_the_page_describes_every_column():
    page = (ROOT / "docs/predictions.md").read_text()
    for name, description in COLUMNS.items():
        assert f"| `{name}` | {description} |" in page


def test_params_allow_every_kind_of_estimate():
    assert set(get_args(Predict.model_fields["point"].annotation)) == set(KINDS)
