"""What evidence comes from, fitted on products with prices: the words' model and the neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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
    make_index,
    read_index,
    write_index,
)
from pricer.evidence.neighbors import Nearest
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
        return make_table(self.products, nearest, self.words.estimate(vectors))

    @cached_property
    def _titles(self) -> "pd.Series[str]":
        return self.products.set_index("id")["title"]

    def neighbors(self, evidence: pd.DataFrame, count: int) -> list[tuple[Neighbor, ...]]:
        """Return the nearest `count` neighbours of each row of evidence, with their titles."""
        told = zip(*(evidence[name] for name in list(COLUMNS)[:3]), strict=True)
        return [
            tuple(
                Neighbor(self._titles.at[one], float(price), round(float(similarity), 3))
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
        make_index(vectors),
    )


def write_models(folder: Path, models: EvidenceModels) -> None:
    """Write fitted models to a new folder: files that cannot hold code.

    Two, and an approximate index's.
    """
    folder.mkdir()
    write_parquet(folder / "products.parquet", models.products)
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
        folder / "words.safetensors",
    )
    if isinstance(models.index, ApproximateIndex):
        write_index(folder, models.index)


def read_models(folder: Path) -> EvidenceModels:
    """Read fitted models.

    Raises:
        PricerError: a file is missing, damaged, or belongs to another.
    """
    products = read_parquet(folder / "products.parquet", ["id", "title", "price"])
    file = folder / "words.safetensors"
    try:
        with safe_open(file, "numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        vectors = csr_matrix(
            tuple(arrays[f"vectors.{part}"] for part in ("data", "indices", "indptr")),
            shape=(len(products), FEATURES),
        )
        vectors.check_format()
        intercept, low, high = map(float, arrays["words.intercept_low_high"])
        words = LinearModel(arrays["words.coefficients"], intercept, low, high)
        for array in (arrays["weights"], words.coefficients):
            if array.shape != (FEATURES,) or not np.isfinite(array).all():
                raise ValueError(f"an array of shape {array.shape} with {FEATURES} numbers")
    except (KeyError, OSError, SafetensorError, ValueError) as error:
        raise PricerError(
            f"{file} is damaged or not of these products ({first_line(error)}): "
            "`dvc checkout` or `dvc repro evidence` brings it back"
        ) from None
    return EvidenceModels(products, vectors, arrays["weights"], words, read_index(folder, vectors))


def word_vectors(train: Sequence[str]) -> tuple[csr_matrix, NDArray[np.float32]]:
    """Return the weighted words of training texts (m, FEATURES), and the weights (FEATURES,)."""
    counts = count_words(train)
    weights = word_weights(counts)
    return weigh(counts, weights), weights
