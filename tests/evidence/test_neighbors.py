"""Neighbours of very many products: approximate, and so near to exact that no prompt tells."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from pricer.errors import PricerError
from pricer.evidence import approximate
from pricer.evidence.alike import warnings
from pricer.evidence.approximate import describe, fit_approximate
from pricer.evidence.folds import assign_folds, make_evidence
from pricer.evidence.models import read_models, word_vectors, write_models
from pricer.evidence.neighbors import ExactIndex
from pricer.evidence.table import NEIGHBORS
from pricer.params import Evidence
from pricer.products.catalog import generate_products
from pricer.products.items import SPLITS, write_items
from pricer.stages.evidence import main
from tests.conftest import ROOT

SETTINGS = Evidence(neighbors=3, words=True, folds=3, ridge_alpha=0.1, seed=1)


@pytest.fixture(scope="module")
def splits():
    products = generate_products(1100, seed=5, noise=0.1, min_price=0.5, max_price=999.49)
    items = pd.DataFrame(products)
    items.insert(0, "id", np.arange(7, 7 + len(items)))
    rows = {"train": slice(0, 1000), "validation": slice(1000, 1050), "test": slice(1050, 1100)}
    return {split: items.iloc[rows[split]].reset_index(drop=True) for split in SPLITS}


@pytest.fixture(scope="module")
def vectors(splits):
    return word_vectors(splits["train"]["summary"].tolist())[0]


@pytest.fixture
def few(monkeypatch):
    """Make a few hundred products too many, and what is looked through a part of them."""
    pytest.importorskip("faiss")
    for name, value in {"EXACT_UP_TO": 300, "CANDIDATES": 60, "PROBES": 12, "PART": 128}.items():
        monkeypatch.setattr(approximate, name, value)


def test_products_left_out_are_nobodys_neighbours(vectors):
    left_out = np.arange(vectors.shape[0]) % 3 == 0
    nearest = ExactIndex(vectors).nearest(vectors[left_out], 5, without=left_out)
    of_others = ExactIndex(vectors[~left_out]).nearest(vectors[left_out], 5)
    assert (nearest.similarities == of_others.similarities).all()
    assert (nearest.rows == np.flatnonzero(~left_out)[of_others.rows]).all()


def test_most_of_the_nearest_are_found(few, vectors):
    index = fit_approximate(vectors)
    assert index.groups.nlist > approximate.PROBES  # some are not looked through
    facts = describe(index, vectors, NEIGHBORS)
    assert facts["kind"] == "approximate" and 0.9 <= facts["recall_at_10"] <= 1
    assert describe(ExactIndex(vectors), vectors, NEIGHBORS) == {"kind": "exact"}


def test_what_is_found_is_compared_exactly(few, vectors):
    exact = (vectors[:50] @ vectors.T).toarray()
    nearest = fit_approximate(vectors).nearest(vectors[:50], 3)
    assert (nearest.rows[:, 0] == np.arange(50)).all()  # itself
    found = np.take_along_axis(exact, nearest.rows, axis=1)
    assert np.allclose(found, nearest.similarities, atol=1e-6)
    assert (np.diff(nearest.similarities, axis=1) <= 0).all()


def test_evidence_of_many_products_is_out_of_fold_too(few, splits):
    tables, _ = make_evidence(splits, SETTINGS)
    train = splits["train"]
    folds = assign_folds(train["title"], SETTINGS.folds, seed=SETTINGS.seed)
    fold_of = dict(zip(train["id"], folds, strict=True))
    for own, ids in zip(folds, tables["train"]["neighbor_ids"], strict=True):
        assert len(ids) == NEIGHBORS and own not in {fold_of[one] for one in ids}


def test_the_table_is_the_exact_ones_but_for_some_neighbours(few, monkeypatch, splits):
    tables, _ = make_evidence(splits, SETTINGS)
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 1000)
    for split, exact in make_evidence(splits, SETTINGS)[0].items():
        pd.testing.assert_series_equal(exact.dtypes, tables[split].dtypes)
        assert exact["id"].equals(tables[split]["id"])
        estimates = (np.log(table["words_estimate_usd"]) for table in (exact, tables[split]))
        assert np.subtract(*estimates).abs().mean() < 0.01
        pairs = zip(exact["neighbor_ids"], tables[split]["neighbor_ids"], strict=True)
        assert np.mean([np.isin(wanted, found).mean() for wanted, found in pairs]) >= 0.9


def test_files_are_the_same_bytes_and_give_the_same_evidence(few, splits, tmp_path):
    tables, models = make_evidence(splits, SETTINGS)
    write_models(tmp_path / "one", models)
    write_models(tmp_path / "two", make_evidence(splits, SETTINGS)[1])
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == [
        "groups.faiss",
        "products.parquet",
        "reduction.safetensors",
        "words.safetensors",
    ]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    read = read_models(tmp_path / "one")
    table = read.of_texts(splits["test"]["summary"].tolist())
    pd.testing.assert_frame_equal(table, tables["test"].drop(columns="id"))


def test_damaged_files_are_told_in_one_line(few, splits, tmp_path):
    _, models = make_evidence(splits, SETTINGS)
    folder = tmp_path / "models"
    write_models(folder, models)
    for name in ("groups.faiss", "reduction.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(PricerError, match="damaged or not of these products"):
            read_models(folder)
        (folder / name).write_bytes(content)
    for name in ("groups.faiss", "reduction.safetensors"):
        (folder / name).rename(tmp_path / name)
        with pytest.raises(PricerError, match="damaged or not of these products"):
            read_models(folder)
        (tmp_path / name).rename(folder / name)


def test_what_is_not_installed_is_told_before_anything_is_made(monkeypatch, splits):
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 300)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(PricerError, match=r"1,000 training products.*'pricer\[approximate\]'"):
        make_evidence(splits, SETTINGS)


def test_texts_that_share_no_word_with_any_have_no_neighbours(few, vectors):
    nothing = fit_approximate(vectors).nearest(vectors[:1] * 0, 3)
    assert (nearest := nothing.rows).shape == (1, 3) and (nearest == -1).all()


def test_the_stage_tells_how_many_of_the_nearest_are_found(
    few, splits, tmp_path, monkeypatch, capsys
):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path / "items", splits)
    main(tmp_path / "items", tmp_path / "evidence", tmp_path / "evidence.json")
    facts = json.loads((tmp_path / "evidence.json").read_text())
    assert facts["index"]["recall_at_10"] >= 0.9
    assert "of the nearest 10" in capsys.readouterr().out
    assert set(facts) == {*SPLITS, "index"}
    assert warnings(facts) == warnings({split: facts[split] for split in SPLITS})
