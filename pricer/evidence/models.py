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
from pricer.evidence.neighbors import ExactIndex
from pricer.evidence.table import COLUMNS, NEIGHBORS
from pricer.evidence.words import (
    FEATURES,
    LinearModel,
    count_words,
    fit_log_prices,
    weigh,
    word_weights,
)
from pricer.files import read_parquet, write_parquet

PRODUCTS, WORDS = "products.parquet", "words.safetensors"
# type of each array in WORDS, and its shape where the products do not give it
ARRAYS: dict[str, tuple[type, tuple[int] | None]] = {
    "vectors.data": (np.float32, None),
    "vectors.indices": (np.int32, None),
    "vectors.indptr": (np.int64, None),
    "weights": (np.float32, (FEATURES,)),
    "words.coefficients": (np.float32, (FEATURES,)),
    "words.intercept_low_high": (np.float64, (3,)),
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
    """

    products: pd.DataFrame
    vectors: csr_matrix
    weights: NDArray[np.float32]
    words: LinearModel

    @cached_property
    def index(self) -> ExactIndex:
        """What finds neighbours."""
        return ExactIndex(self.vectors)

    def vectors_of(self, texts: Sequence[str]) -> csr_matrix:
        """Return the weighted words of each text, (n, FEATURES)."""
        return weigh(count_words(texts), self.weights)

    def of_texts(self, texts: Sequence[str]) -> pd.DataFrame:
        """Return the evidence for each text: COLUMNS."""
        return self.of_vectors(self.vectors_of(texts))

    def of_vectors(self, vectors: csr_matrix) -> pd.DataFrame:
        """Return the evidence for texts given as weighted words, (n, FEATURES): COLUMNS."""
        nearest = self.index.nearest(vectors, NEIGHBORS)
        ids, prices = (self.products[column].to_numpy() for column in ("id", "price"))
        there = [row >= 0 for row in nearest.rows]
        return pd.DataFrame(
            {
                "neighbor_ids": [
                    ids[row[is_there]] for row, is_there in zip(nearest.rows, there, strict=True)
                ],
                "neighbor_prices": [
                    prices[row[is_there]] for row, is_there in zip(nearest.rows, there, strict=True)
                ],
                "neighbor_similarities": [
                    values[is_there].astype(float)
                    for values, is_there in zip(nearest.similarities, there, strict=True)
                ],
                "words_estimate_usd": self.words.estimate(vectors),
            }
        )

    @cached_property
    def _titles(self) -> dict[int, str]:
        return dict(zip(self.products["id"], self.products["title"], strict=True))

    def neighbors(self, evidence: pd.DataFrame, count: int) -> list[tuple[Neighbor, ...]]:
        """Return the nearest `count` neighbours of each row of evidence, with their titles."""
        told = zip(*(evidence[name] for name in list(COLUMNS)[:3]), strict=True)
        return [
            tuple(
                Neighbor(self._titles[one], float(price), round(float(similarity), 3))
                for one, price, similarity in list(zip(*lists, strict=True))[:count]
            )
            for lists in told
        ]


def fit_models(
    items: pd.DataFrame, vectors: csr_matrix, weights: NDArray[np.float32], *, ridge_alpha: float
) -> EvidenceModels:
    """Fit evidence on products.

    Args:
        items: id, title, price (USD).
        vectors: (m, FEATURES) their weighted words.
        weights: (FEATURES,) what the words were weighted with.
        ridge_alpha: penalty of the linear model.
    """
    return EvidenceModels(
        items[["id", "title", "price"]].reset_index(drop=True),
        vectors,
        weights,
        fit_log_prices(vectors, items["price"], ridge_alpha),
    )


def write_models(folder: Path, models: EvidenceModels) -> None:
    """Write fitted models to a new folder: two files, neither of which can hold code."""
    folder.mkdir()
    write_parquet(folder / PRODUCTS, models.products)
    save_file(
        {
            "vectors.data": models.vectors.data,
            "vectors.indices": models.vectors.indices.astype(np.int32),
            "vectors.indptr": models.vectors.indptr.astype(np.int64),
            "weights": models.weights,
            "words.coefficients": models.words.coefficients,
            "words.intercept_low_high": np.array(
                [models.words.intercept, models.words.low, models.words.high]
            ),
        },
        folder / WORDS,
    )


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
    intercept, low, high = map(float, arrays["words.intercept_low_high"])
    words = LinearModel(arrays["words.coefficients"], intercept, low, high)
    return EvidenceModels(products, vectors, arrays["weights"], words)


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
    _, low, high = arrays["words.intercept_low_high"]
    if not 0 <= low <= high:
        raise ValueError(f"prices from {low} to {high}")


def word_vectors(train: Sequence[str]) -> tuple[csr_matrix, NDArray[np.float32]]:
    """Return the weighted words of training texts (m, FEATURES), and the weights (FEATURES,)."""
    counts = count_words(train)
    weights = word_weights(counts)
    return weigh(counts, weights), weights
