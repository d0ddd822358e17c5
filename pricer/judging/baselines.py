"""Predictors without a language model: what it has to beat, fitted on the same training items."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline

Floats = NDArray[np.float64]

BASELINES = (
    "mean",
    "median",
    "category_median",
    "ridge",
    "ridge_log",
    "boosted_trees",
    "nearest_neighbors",
)


def predict_baselines(
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    ridge_alpha: float,
    svd_components: int,
    trees: int,
    neighbors: int,
    seed: int,
) -> pd.DataFrame:
    """Fit every baseline on `train` and return its estimates for `test`.

    Args:
        train: items: category, summary, price (USD).
        test: items: id, category, summary, price (USD).
        ridge_alpha: strength of the ridge penalty.
        svd_components: columns that the boosted trees see.
        trees: how many are boosted.
        neighbors: training items that the nearest neighbours are.
        seed: of the randomized SVD.

    Returns:
        id, price, and a column for each of BASELINES, USD, within the range of training prices.
    """
    prices = train["price"].to_numpy(float)
    train_x, test_x = tfidf(train["summary"], test["summary"])
    estimates = {
        "mean": mean(prices, len(test)),
        "median": median(prices, len(test)),
        "category_median": category_median(train, test),
        "ridge": ridge(train_x, prices, test_x, alpha=ridge_alpha),
        "ridge_log": ridge_log(train_x, prices, test_x, alpha=ridge_alpha),
        "boosted_trees": boosted_trees(
            train_x, prices, test_x, components=svd_components, trees=trees, seed=seed
        ),
        "nearest_neighbors": nearest_neighbors(train_x, prices, test_x, neighbors=neighbors),
    }
    low, high = prices.min(), prices.max()
    clipped = {name: values.clip(low, high) for name, values in estimates.items()}
    return test[["id", "price"]].reset_index(drop=True).join(pd.DataFrame(clipped))


def tfidf(train: "pd.Series[str]", test: "pd.Series[str]") -> tuple[csr_matrix, csr_matrix]:
    """Return the weighted words and pairs of words of each text as sparse rows of unit length.

    Words are hashed, so that no vocabulary is held however many texts there are.
    """
    vectorizer = make_pipeline(
        HashingVectorizer(
            n_features=2**18,
            ngram_range=(1, 2),
            stop_words="english",
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        ),
        TfidfTransformer(sublinear_tf=True),
    )
    return vectorizer.fit_transform(train), vectorizer.transform(test)


def mean(prices: Floats, n: int) -> Floats:
    """Return the mean training price, the constant that minimises MSE ("constant", 106.18)."""
    return np.full(n, prices.mean())


def median(prices: Floats, n: int) -> Floats:
    """Return the median training price, the constant that minimises MAE (not in the table)."""
    return np.full(n, np.median(prices))


def category_median(train: pd.DataFrame, test: pd.DataFrame) -> Floats:
    """Return the category's median, a few known features ("linear regression", 101.56)."""
    medians = train.groupby("category")["price"].median()
    return test["category"].map(medians).fillna(train["price"].median()).to_numpy(float)


def ridge(train_x: csr_matrix, prices: Floats, test_x: csr_matrix, *, alpha: float) -> Floats:
    """Return a linear model of words in dollars ("NLP + LR", 76.81)."""
    # stops when the weights hardly move; sums in a fixed order, so the same bytes each time
    model = Ridge(alpha=alpha, solver="sparse_cg").fit(train_x, prices)
    return np.asarray(model.predict(test_x), dtype=float)


def ridge_log(train_x: csr_matrix, prices: Floats, test_x: csr_matrix, *, alpha: float) -> Floats:
    """Return a linear model of words on log price, in dollars ("NLP + LR" with a better target)."""
    return np.expm1(ridge(train_x, np.log1p(prices), test_x, alpha=alpha))


def boosted_trees(
    train_x: csr_matrix,
    prices: Floats,
    test_x: csr_matrix,
    *,
    components: int,
    trees: int,
    seed: int,
) -> Floats:
    """Return trees boosted on the words' main directions ("XGBoost", 68.23; "random forest")."""
    most = max(min(train_x.shape) - 1, 1)
    svd = TruncatedSVD(min(components, most), random_state=seed)
    with np.errstate(invalid="ignore"):  # a single item has no variance to explain
        reduced = svd.fit_transform(train_x)
    model = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=trees, early_stopping=False
    ).fit(reduced, prices)
    return np.asarray(model.predict(svd.transform(test_x)), dtype=float)


def nearest_neighbors(
    train_x: csr_matrix, prices: Floats, test_x: csr_matrix, *, neighbors: int
) -> Floats:
    """Return the median price of the most similar training items (retrieval; not in the table)."""
    index = NearestNeighbors(
        n_neighbors=min(neighbors, train_x.shape[0]), metric="cosine", algorithm="brute"
    ).fit(train_x)
    with config_context(working_memory=128):  # MB of distances at once
        found = index.kneighbors(test_x, return_distance=False)
    return np.asarray(np.median(prices[found], axis=1), dtype=float)
