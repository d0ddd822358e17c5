"""Models of evidence on the disk: sound, or refused in one line before anything is computed."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from pricer.errors import PricerError
from pricer.evidence.folds import make_evidence
from pricer.evidence.models import read_models, write_models
from pricer.files import write_parquet
from pricer.params import read_params
from tests.conftest import ROOT

FILES = ("products.parquet", "words.safetensors")


@pytest.fixture(scope="module")
def sound(items, tmp_path_factory) -> Path:
    train = items.head(30)
    folder = tmp_path_factory.mktemp("evidence") / "models"
    write_models(
        folder, make_evidence({"train": train}, read_params(ROOT / "params.yaml").evidence)[1]
    )
    return folder


@pytest.fixture
def models(sound, tmp_path) -> Path:
    """Models of this test's own, to damage."""
    return Path(shutil.copytree(sound, tmp_path / "models"))


def refusal(folder: Path) -> str:
    with pytest.raises(PricerError) as error:
        read_models(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_product_of_the_training_split_is_likened_to_itself(models, items):
    read = read_models(models)
    summary, title = items["summary"][3], items["title"][3]
    table = read.of_texts([summary])
    [[nearest, second]] = read.neighbors(table, 2)
    assert nearest.title == title and nearest.price_usd == items["price"][3]
    assert nearest.similarity == pytest.approx(1, abs=1e-3) and 0 < second.similarity <= 1
    assert isinstance(nearest.price_usd, float) and isinstance(nearest.similarity, float)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_told(models, name):
    (models / name).unlink()
    assert f"{models}: no models of evidence there (no {name}): `dvc checkout`" in refusal(models)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert "no models of evidence there" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(len(data)),
        lambda data: b"PAR1" + data,
        lambda data: data[:8] + b"x" + data[9:],
    ],
)
def test_a_damaged_file_is_told(models, name, damage):
    (models / name).write_bytes(damage((models / name).read_bytes()))
    assert str(models / name) in refusal(models)


def set_first(value):
    def change(array):
        changed = array.copy()
        changed[0] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("vectors.data", set_first(np.nan), "no number"),
        ("vectors.data", set_first(-0.5), "unit length"),
        ("vectors.data", set_first(7), "unit length"),
        ("vectors.data", lambda array: array.astype(np.float64), "type float64"),
        ("vectors.data", lambda array: array[:-1], "vectors.indptr does not part"),
        ("vectors.indices", set_first(2**18), "indices must be <"),
        ("vectors.indices", set_first(-1), "indices must be >= 0"),
        ("vectors.indices", lambda array: array.astype(np.int64), "type int64"),
        ("vectors.indices", lambda array: array[:-1], "same size"),
        ("vectors.indptr", lambda array: array[::-1].copy(), "does not part"),
        ("vectors.indptr", lambda array: array[:0], "does not part"),
        ("vectors.indptr", lambda array: np.delete(array, 3), "index pointer size"),
        ("vectors.indptr", set_first(1), "start with 0"),
        ("weights", lambda array: array[:-1], "shape (262143,)"),
        ("weights", set_first(np.inf), "no number"),
        ("words.coefficients", set_first(np.nan), "no number"),
        ("words.coefficients", set_first(1e30), "beyond measure"),
        ("words.coefficients", lambda array: array.reshape(2, -1), "shape (2, 131072)"),
        ("words.coefficients", lambda array: array.astype(np.float16), "type float16"),
        ("words.constants", lambda array: array[:2], "shape (2,)"),
        ("words.constants", set_first(np.nan), "no number"),
        ("words.constants", lambda array: array[::-1].copy(), "prices from"),
    ],
)
def test_arrays_that_cannot_be_are_told(models, name, change, says):
    file = models / "words.safetensors"
    arrays = load_file(file)
    save_file(arrays | {name: change(arrays[name])}, file)
    assert says in refusal(models)
    del arrays[name]
    save_file(arrays, file)
    assert name in refusal(models)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.head(29), "words.safetensors is damaged or not of these products"),
        (lambda table: pd.concat([table, table.assign(id=table["id"] + 1)]), "not of these"),
        (lambda table: table.head(0), "no products"),
        (lambda table: table.drop(columns="title"), "no column title"),
        (lambda table: table.assign(id=table["id"].astype(str)), "ids that are not whole"),
        (lambda table: table.assign(id=1), "ids that are not whole numbers, each once"),
        (lambda table: table.assign(title=1.5), "a title that is no text"),
        (lambda table: table.assign(title=None), "a title that is no text"),
        (lambda table: table.assign(price=np.nan), "a price that is no number"),
        (lambda table: table.assign(price=-1.0), "a price that is no number"),
        (lambda table: table.assign(price="5"), "a price that is no number"),
    ],
)
def test_products_that_cannot_be_are_told(models, change, says):
    file = models / "products.parquet"
    write_parquet(file, change(pd.read_parquet(file)))
    assert says in refusal(models)
