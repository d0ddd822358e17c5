"""Words of a text as weighted, hashed columns, and a linear model of words and neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, hstack

FEATURES = 2**18  # columns that words are hashed to: no vocabulary is held

Floats = NDArray[np.float64]


def count_words(texts: Sequence[str]) -> csr_matrix:
    """Return how often each word occurs in each text, (n, FEATURES)."""
    # scikit-learn takes seconds to import: what needs no words does not wait
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        n_features=FEATURES,
        stop_words="english",
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    ).transform(texts)


def word_weights(counts: csr_matrix) -> NDArray[np.float32]:
    """Return the inverse document frequency of each column, (FEATURES,): rare words tell more."""
    from sklearn.feature_extraction.text import TfidfTransformer

    return np.asarray(TfidfTransformer().fit(counts).idf_, dtype=np.float32)


def weigh(counts: csr_matrix, weights: NDArray[np.float32]) -> csr_matrix:
    """Return TF-IDF: rows of unit length, (1 + log count) x weight; their products are cosines."""
    from sklearn.preprocessing import normalize

    weighted = counts.copy()
    weighted.data = (np.log(weighted.data) + 1) * weights[weighted.indices]
    return normalize(weighted, copy=False)


@dataclass(frozen=True)
class LinearModel:
    """A ridge regression of log(1 + price) on weighted words and on what neighbours suggest.

    Where neighbours are near, words say how a product differs from them; where none are, all.

    Attributes:
        coefficients: (FEATURES,) of the words.
        neighbors: of log(1 + price) that the neighbours suggest, less `center`.
        center: what is taken for it where there are no neighbours: the mean.
        intercept: what a text without words is said to cost, log dollars.
        low: lowest price it was fitted on, USD.
        high: highest.
    """

    coefficients: NDArray[np.float32]
    neighbors: float
    center: float
    intercept: float
    low: float
    high: float

    def estimate(self, vectors: csr_matrix, suggested: Floats) -> Floats:
        """Return estimates (n,) USD, within the prices that the model was fitted on.

        Args:
            vectors: (n, FEATURES) weighted words.
            suggested: (n,) USD, what the neighbours suggest; NaN where there are none.
        """
        log_prices = vectors @ self.coefficients + self.intercept
        log_prices = log_prices + self.neighbors * _centered(suggested, self.center)
        return np.asarray(np.expm1(log_prices).clip(self.low, self.high))


def fit_log_prices(
    vectors: csr_matrix, suggested: Floats, prices: ArrayLike, alpha: float
) -> LinearModel:
    """Fit the linear model.

    Args:
        vectors: (m, FEATURES) weighted words.
        suggested: (m,) USD, what the neighbours of each product suggest; NaN where there are none.
        prices: (m,) USD.
        alpha: of the ridge penalty.
    """
    truth = np.asarray(prices, dtype=float)
    target = np.log1p(truth)
    center = float(target.mean())
    near = csr_matrix(_centered(suggested, center)[:, None].astype(np.float32))
    coefficients, intercept = fit_ridge(hstack([vectors, near], format="csr"), target, alpha)
    return LinearModel(
        coefficients[:-1],
        float(coefficients[-1]),
        center,
        intercept,
        float(truth.min()),
        float(truth.max()),
    )


def _centered(suggested: Floats, center: float) -> Floats:
    return np.nan_to_num(np.log1p(suggested) - center)


def fit_ridge(
    vectors: csr_matrix, target: Floats, alpha: float
) -> tuple[NDArray[np.float32], float]:
    """Return coefficients and intercept of a ridge regression, always the same bytes.

    The solver stops when they hardly move, and sums in a fixed order.
    """
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=alpha, solver="sparse_cg").fit(vectors, target)
    return np.asarray(model.coef_, dtype=np.float32), float(model.intercept_)
