"""What evidence comes from, fitted on products with prices: the words' model and the neighbours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix

from pricer.errors import PricerError, first_line
from pricer.evidence.approximate import (
    ApproximateIndex,
    Index,
    read_index,
    write_index,
)
from pricer.evidence.neighbors import Nearest
from pricer.evidence.table import COLUMNS, NEIGHBORS
from pricer.evidence.words import (
    FEATURES,
    LinearModel,
    count_words,
    weigh,
    word_weights,
)
from pricer.files import read_parquet, write_parquet

PRODUCTS, WORDS = "products.parquet", "words.safetensors"
# of the linear model, beside its coefficients
CONSTANTS = ("neighbors", "center", "intercept", "low", "high")
# type of each array in WORDS, and its shape where the products do not give it
ARRAYS: dict[str, tuple[type, tuple[int] | None]] = {
    "vectors.data": (np.float32, None),
    "vectors.indices": (np.int32, None),
    "vectors.indptr": (np.int64, None),
    "weights": (np.float32, (FEATURES,)),
    "words.coefficients": (np.float32, (FEATURES,)),
    "words.constants": (np.float64, (len(CONSTANTS),)),
}
LARGEST = 1e6  # of a word's weight or coefficient: sums of them stay numbers


@dataclass(frozen=True)
class Neighbor:
    """A training product that another is likened to.

    Attributes:
        title: what it is.
        price_usd: what it costs.
        similarity: cosine of the weighted words of both, above 0, to 1.
    """

    title: str
    price_usd: float
    similarity: float


@dataclass(frozen=True)
class EvidenceModels:
    """Fitted on m products.

    Attributes:
        products: id, title and price (USD) of each.
        vectors: (m, FEATURES) their weighted words.
        weights: (FEATURES,) of words, by how rare they are.
        words: the linear model.
        index: what finds neighbours.
    """

    products: pd.DataFrame
    vectors: csr_matrix
    weights: NDArray[np.float32]
    words: LinearModel
    index: Index

    def vectors_of(self, texts: Sequence[str]) -> csr_matrix:
        """Return the weighted words of each text, (n, FEATURES)."""
        return weigh(count_words(texts), self.weights)

    def of_texts(self, texts: Sequence[str]) -> pd.DataFrame:
        """Return the evidence for each text: COLUMNS."""
        return self.of_vectors(self.vectors_of(texts))

    def of_vectors(self, vectors: csr_matrix) -> pd.DataFrame:
        """Return the evidence for texts given as weighted words, (n, FEATURES): COLUMNS."""
        nearest = self.index.nearest(vectors, NEIGHBORS)
        suggested = nearest.suggested_price(self.products["price"].to_numpy())
        return make_table(self.products, nearest, self.words.estimate(vectors, suggested))

    @cached_property
    def _titles(self) -> "pd.Series[str]":
        return self.products.set_index("id")["title"]

    def neighbors(self, evidence: pd.DataFrame, count: int) -> list[tuple[Neighbor, ...]]:
        """Return the nearest `count` neighbours of each row of evidence, with their titles."""
        told = zip(*(evidence[name] for name in list(COLUMNS)[:3]), strict=True)
        return [
            tuple(
                Neighbor(str(self._titles.at[one]), float(price), round(float(similarity), 3))
                for one, price, similarity in list(zip(*lists, strict=True))[:count]
            )
            for lists in told
        ]


def make_table(
    products: pd.DataFrame, nearest: Nearest, words_estimates: NDArray[np.float64]
) -> pd.DataFrame:
    """Return COLUMNS.

    Args:
        products: id and price (USD) of those that are neighbours.
        nearest: of n texts among them.
        words_estimates: (n,) USD.
    """
    ids, prices = (products[column].to_numpy() for column in ("id", "price"))
    rows = [row[row >= 0] for row in nearest.rows]
    told = zip(nearest.similarities, rows, strict=True)
    return pd.DataFrame(
        {
            "neighbor_ids": [ids[row] for row in rows],
            "neighbor_prices": [prices[row] for row in rows],
            # those that are none come last
            "neighbor_similarities": [values[: len(row)].astype(float) for values, row in told],
            "words_estimate_usd": words_estimates,
        }
    )


def write_models(folder: Path, models: EvidenceModels) -> None:
    """Write fitted models to a new folder: files that cannot hold code.

    Two, and an approximate index's.
    """
    folder.mkdir()
    write_parquet(folder / PRODUCTS, models.products)
    save_file(
        {
            "vectors.data": models.vectors.data,
            "vectors.indices": models.vectors.indices.astype(np.int32),
            "vectors.indptr": models.vectors.indptr.astype(np.int64),
            "weights": models.weights,
            "words.coefficients": models.words.coefficients,
            "words.constants": np.array([getattr(models.words, name) for name in CONSTANTS]),
        },
        folder / WORDS,
    )
    if isinstance(models.index, ApproximateIndex):
        write_index(folder, models.index)


def read_models(folder: Path) -> EvidenceModels:
    """Read fitted models.

    Raises:
        PricerError: a file is missing, damaged, or belongs to another.
    """
    products_file, file = folder / PRODUCTS, folder / WORDS
    for name in (PRODUCTS, WORDS):
        if not (folder / name).is_file():
            raise PricerError(
                f"{folder}: no models of evidence there (no {name}): "
                "`dvc checkout` or `dvc repro evidence` brings them back"
            )
    products = read_parquet(products_file, ["id", "title", "price"])
    with _one_line(products_file):
        _check_products(products)
    with _one_line(file):
        with safe_open(file, "numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        _check_arrays(arrays)
        vectors = csr_matrix(
            tuple(arrays[f"vectors.{part}"] for part in ("data", "indices", "indptr")),
            shape=(len(products), FEATURES),
        )
        vectors.check_format(full_check=True)  # an index out of range would end the process
    words = LinearModel(arrays["words.coefficients"], *map(float, arrays["words.constants"]))
    return EvidenceModels(products, vectors, arrays["weights"], words, read_index(folder, vectors))


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """Tell in one line what is wrong with a file."""
    try:
        yield
    except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise PricerError(
            f"{file} is damaged or not of these products ({first_line(error)}): "
            "`dvc checkout` or `dvc repro evidence` brings it back"
        ) from None


def _check_products(products: pd.DataFrame) -> None:
    """Raise ValueError unless there are products with ids, titles and prices."""
    if products.empty:
        raise ValueError("no products")
    if products["id"].dtype != np.int64 or not products["id"].is_unique:
        raise ValueError("ids that are not whole numbers, each once")
    if not products["title"].map(lambda title: isinstance(title, str)).all():
        raise ValueError("a title that is no text")
    prices = products["price"]
    if prices.dtype != np.float64 or not (np.isfinite(prices) & (prices >= 0)).all():
        raise ValueError("a price that is no number of dollars")


def _check_arrays(arrays: dict[str, Any]) -> None:
    """Raise KeyError or ValueError unless all of ARRAYS are there, and numbers."""
    for name, (kind, shape) in ARRAYS.items():
        array = arrays[name]
        if array.dtype != kind or array.ndim != 1 or (shape and array.shape != shape):
            raise ValueError(f"{name} is of type {array.dtype} and shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds what is no number")
    data, ends = arrays["vectors.data"], arrays["vectors.indptr"]
    if data.min(initial=0) < 0 or data.max(initial=0) > 1.001:
        raise ValueError("vectors.data holds rows that are not of unit length")
    if np.diff(ends).min(initial=0) < 0 or ends[-1:].tolist() != [len(data)]:
        raise ValueError("vectors.indptr does not part vectors.data into rows")
    if max(np.abs(arrays[name]).max() for name in ("weights", "words.coefficients")) > LARGEST:
        raise ValueError("weights or words.coefficients are beyond measure")
    *_, low, high = arrays["words.constants"]
    if not 0 <= low <= high:
        raise ValueError(f"prices from {low} to {high}")


def word_vectors(train: Sequence[str]) -> tuple[csr_matrix, NDArray[np.float32]]:
    """Return the weighted words of training texts (m, FEATURES), and the weights (FEATURES,)."""
    counts = count_words(train)
    weights = word_weights(counts)
    return weigh(counts, weights), weights
