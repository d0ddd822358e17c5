"""The nearest of many products, by the words that texts share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

CHUNK = 2**25  # similarities in memory at once


@dataclass(frozen=True)
class Nearest:
    """The nearest products by query, the most similar first.

    Attributes:
        rows: (n, count) of these products among all; -1 where no more share a word.
        similarities: (n, count) cosines, 0 there.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


class ExactIndex:
    """Products by their words; every query is compared with all that share one."""

    def __init__(self, vectors: csr_matrix) -> None:
        """Take the vectors of m products, (m, features) rows of unit length."""
        self._products_by_word = vectors.T.tocsr()

    def nearest(
        self, queries: csr_matrix, count: int, *, without: NDArray[np.bool_] | None = None
    ) -> Nearest:
        """Return the nearest `count` products for each query; of equals, the first.

        Args:
            queries: (n, features) rows of unit length.
            count: neighbours by query.
            without: (m,) products that are no neighbours of any; not given: none.
        """
        products = self._products_by_word.shape[1]
        nearest = no_neighbors(queries.shape[0], count)
        size = max(CHUNK // products, 1)
        for start in range(0, queries.shape[0], size):
            part = slice(start, start + size)
            similarities = (queries[part] @ self._products_by_word).toarray()
            if without is not None:
                similarities[:, without] = 0
            best = best_of(similarities, count)
            nearest.rows[part, : best.rows.shape[1]] = best.rows
            nearest.similarities[part, : best.rows.shape[1]] = best.similarities
        return nearest


def no_neighbors(queries: int, count: int) -> Nearest:
    """Return what queries without any neighbour have."""
    return Nearest(
        np.full((queries, count), -1, dtype=np.int64), np.zeros((queries, count), dtype=np.float32)
    )


def best_of(similarities: NDArray[np.float32], count: int) -> Nearest:
    """Return the columns of the highest similarities (n, m) by row; of equals, the first.

    Args:
        similarities: of n queries to m products.
        count: columns by row.
    """
    count = min(count, similarities.shape[1])
    # a partition leaves equals in any order: all that are as good as the last are looked at
    last = np.partition(similarities, -count, axis=1)[:, -count]
    rows = np.empty((len(similarities), count), dtype=np.int64)
    for place, (values, least) in enumerate(zip(similarities, last, strict=True)):
        candidates = np.flatnonzero(values >= least)
        rows[place] = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
    found = np.take_along_axis(similarities, rows, axis=1)
    return Nearest(np.where(found > 0, rows, -1), np.maximum(found, 0))
