"""Evidence of every split: out of fold for training products, and nobody's own price in it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.evidence.alike import compare_splits, warnings
from pricer.evidence.folds import assign_folds, make_evidence
from pricer.evidence.models import read_models, write_models
from pricer.evidence.table import COLUMNS, NEIGHBORS, neighbors_estimate
from pricer.evidence.wording import wording
from pricer.params import Evidence
from pricer.products.items import title_key

SETTINGS = Evidence(neighbors=3, words=True, folds=4, ridge_alpha=0.1, seed=1)


@pytest.fixture(scope="module")
def splits(items):
    """Two training products have the same title but for the order of its words."""
    train = items.iloc[:120].reset_index(drop=True)
    twin = train.iloc[[0]].assign(
        id=1, title=" ".join(reversed(train["title"][0].split())), price=train["price"][0] + 100
    )
    return {
        "train": pd.concat([train, twin], ignore_index=True),
        "validation": items.iloc[120:150].reset_index(drop=True),
        "test": items.iloc[150:].reset_index(drop=True),
    }


@pytest.fixture(scope="module")
def made(splits):
    return make_evidence(splits, SETTINGS)


def test_every_product_has_its_evidence_in_the_order_of_the_items(splits, made):
    tables, _ = made
    for split, items in splits.items():
        table = tables[split]
        assert list(table) == ["id", *COLUMNS]
        assert table["id"].tolist() == items["id"].tolist()
        prices = dict(zip(splits["train"]["id"], splits["train"]["price"], strict=True))
        for row in table.itertuples():
            assert 0 < len(row.neighbor_ids) <= NEIGHBORS
            assert [prices[one] for one in row.neighbor_ids] == list(row.neighbor_prices)
            similarities = np.asarray(row.neighbor_similarities)
            assert (np.diff(similarities) <= 0).all() and 0 < similarities[-1]
            assert similarities[0] <= 1 + 1e-6


def test_the_nearest_are_those_of_the_highest_cosine(splits, made):
    tables, models = made
    similarities = (
        models.vectors_of(splits["test"]["summary"].tolist()) @ models.vectors.T
    ).toarray()
    for row, found in zip(similarities, tables["test"]["neighbor_similarities"], strict=True):
        best = np.sort(row)[::-1][:NEIGHBORS]
        assert np.allclose(found, best[best > 0], atol=1e-6)


def test_prices_of_validation_and_test_change_nothing(splits, made):
    shuffled = {
        split: items if split == "train" else items.assign(price=items["price"].to_numpy()[::-1])
        for split, items in splits.items()
    }
    again, models = make_evidence(shuffled, SETTINGS)
    for split, table in made[0].items():
        pd.testing.assert_frame_equal(again[split], table)
    assert (models.words.coefficients == made[1].words.coefficients).all()


def test_no_price_of_its_fold_reaches_a_training_products_evidence(splits, made):
    """The fold's own prices, those of near-duplicates among them, may be any."""
    folds = assign_folds(splits["train"]["title"], SETTINGS.folds, seed=SETTINGS.seed)
    assert len(set(folds)) == SETTINGS.folds
    assert folds[0] == folds[120]  # near-identical titles
    for fold in range(SETTINGS.folds):
        rows = folds == fold
        train = splits["train"].copy()
        train.loc[rows, "price"] = 999.0
        again, _ = make_evidence(splits | {"train": train}, SETTINGS)
        pd.testing.assert_frame_equal(again["train"][rows], made[0]["train"][rows])
        assert not again["train"][~rows].equals(made[0]["train"][~rows])


def test_neighbours_of_training_products_are_of_other_folds(splits, made):
    folds = assign_folds(splits["train"]["title"], SETTINGS.folds, seed=SETTINGS.seed)
    of = dict(zip(splits["train"]["id"], folds, strict=True))
    for own, row in zip(folds, made[0]["train"]["neighbor_ids"], strict=True):
        assert own not in {of[one] for one in row}


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(2, 9))
def test_folds_are_of_whole_titles_and_of_like_size(letters, count):
    titles = pd.Series([f"kettle {letter}" for letter in letters])
    folds = assign_folds(titles, count, seed=3)
    by_key = pd.Series(folds).groupby(titles.map(title_key)).nunique()
    assert (by_key == 1).all() and set(folds) <= set(range(count))
    assert len(set(folds)) == min(count, titles.nunique())
    again = assign_folds(titles[::-1], count, seed=3)
    assert again[::-1].tolist() == folds.tolist()  # whatever the order of rows


def test_products_with_one_title_between_them_get_no_evidence(splits):
    train = splits["train"].head(3).assign(title="The same")
    tables, _ = make_evidence(splits | {"train": train}, SETTINGS)
    assert tables["train"]["neighbor_ids"].map(len).tolist() == [0, 0, 0]
    assert tables["train"]["words_estimate_usd"].isna().all()
    assert wording(tables["train"], neighbors=3, words=True) == ["", "", ""]
    assert np.isnan(neighbors_estimate(tables["train"])).all()
    facts = compare_splits(splits | {"train": train}, tables)
    assert facts["train"] == {"n": 3} and not warnings(facts)


def test_what_is_written_gives_the_same_evidence(splits, made, tmp_path):
    tables, models = made
    write_models(tmp_path / "models", models)
    read = read_models(tmp_path / "models")
    table = read.of_texts(splits["test"]["summary"].tolist())
    pd.testing.assert_frame_equal(table, tables["test"].drop(columns="id"))
    [nearest, *_], *_ = read.neighbors(table, 2)
    assert nearest.title in set(splits["train"]["title"])
    assert nearest.price_usd == tables["test"]["neighbor_prices"][0][0]
    write_models(tmp_path / "again", models)
    for file in (tmp_path / "models").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_text_without_a_known_word_has_no_neighbours(made):
    table = made[1].of_texts(["of the"])
    assert len(table["neighbor_ids"][0]) == 0
    assert wording(table, neighbors=3, words=False) == [""]
    assert wording(table, neighbors=3, words=True)[0].startswith("Its words suggest $")


def test_wording_tells_what_it_is_asked_for(made):
    table = made[0]["test"].head(1)
    prices = [f"${round(price)}" for price in table["neighbor_prices"][0]]
    estimate = f"Its words suggest ${round(table['words_estimate_usd'][0])}."
    similar = f"Similar products cost {', '.join(prices[:2])}."
    assert wording(table, neighbors=2, words=True) == [f"{similar} {estimate}"]
    assert wording(table, neighbors=2, words=False) == [similar]
    assert wording(table, neighbors=0, words=True) == [estimate]
    assert wording(table, neighbors=0, words=False) == [""]


def test_splits_that_are_not_alike_are_told(splits, made):
    tables, _ = made
    assert not warnings(compare_splits(splits, tables))
    # every test product stands among the training products
    leaked = splits["train"].head(50)
    table = made[1].of_texts(leaked["summary"].tolist())
    facts = compare_splits(splits | {"test": leaked}, tables | {"test": table})
    assert facts["test"]["nearest_similarity"] == pytest.approx(1)
    assert any("nearest_similarity" in one and "test" in one for one in warnings(facts))
