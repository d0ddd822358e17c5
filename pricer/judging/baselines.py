"""Predictors without a language model: what it has to beat, fitted on the same training items."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pricer.params import Baselines

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """What a baseline is fitted on and judges.

    Attributes:
        train: items: category, price (USD).
        test: items: category.
        train_x: weighted words of the training items, see `tfidf`.
        test_x: of the test items.
        settings: the knobs.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    train_x: csr_matrix
    test_x: csr_matrix
    settings: Baselines

    @property
    def prices(self) -> Floats:
        """The training prices, USD."""
        return self.train["price"].to_numpy(float)


@dataclass(frozen=True)
class Baseline:
    """A predictor: what people call it, what it is, and how it judges the test items, USD.

    `published` is its counterpart in the reference recipe's table, as `published_scores.json`
    calls it, where there is one.
    """

    label: str
    description: str
    published: str | None
    estimate: Callable[[Split], Floats]


def predict_baselines(train: pd.DataFrame, test: pd.DataFrame, settings: Baselines) -> pd.DataFrame:
    """Fit every baseline on `train` and return its estimates for `test`.

    Args:
        train: items: category, summary, price (USD).
        test: items: id, category, summary, price (USD).
        settings: the knobs.

    Returns:
        id, price, and a column for each of BASELINES, USD, within the range of training prices.
    """
    split = Split(train, test, *tfidf(train["summary"], test["summary"]), settings)
    low, high = split.prices.min(), split.prices.max()
    estimates = {
        name: baseline.estimate(split).clip(low, high) for name, baseline in BASELINES.items()
    }
    return test[["id", "price"]].reset_index(drop=True).join(pd.DataFrame(estimates))


def tfidf(train: "pd.Series[str]", test: "pd.Series[str]") -> tuple[csr_matrix, csr_matrix]:
    """Return the weighted words and pairs of words of each text as sparse rows of unit length.

    Words are hashed, so that no vocabulary is held however many texts there are.
    """
    # scikit-learn takes seconds to import: the report, which tells the labels, does not wait
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline

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


def mean_price(split: Split) -> Floats:
    """Return the mean training price, the constant that minimises MSE."""
    return np.full(len(split.test), split.prices.mean())


def median_price(split: Split) -> Floats:
    """Return the median training price, the constant that minimises MAE."""
    return np.full(len(split.test), np.median(split.prices))


def category_median(split: Split) -> Floats:
    """Return the median training price of the category; of all where it is unknown."""
    medians = split.train.groupby("category")["price"].median()
    known = split.test["category"].map(medians)
    return known.fillna(split.train["price"].median()).to_numpy(float)


def ridge(split: Split) -> Floats:
    """Return a linear model of words in dollars."""
    return _fit_ridge(split, split.prices)


def ridge_log(split: Split) -> Floats:
    """Return a linear model of words on log(1 + price), in dollars."""
    return np.expm1(_fit_ridge(split, np.log1p(split.prices)))


def _fit_ridge(split: Split, target: Floats) -> Floats:
    from sklearn.linear_model import Ridge

    # stops when the weights hardly move; sums in a fixed order, so the same bytes each time
    model = Ridge(alpha=split.settings.ridge_alpha, solver="sparse_cg").fit(split.train_x, target)
    return np.asarray(model.predict(split.test_x), dtype=float)


def boosted_trees(split: Split) -> Floats:
    """Return trees boosted for absolute error on the words' main directions."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import HistGradientBoostingRegressor

    most = max(min(split.train_x.shape) - 1, 1)
    settings = split.settings
    svd = TruncatedSVD(min(settings.svd_components, most), random_state=settings.seed)
    with np.errstate(invalid="ignore"):  # a single item has no variance to explain
        reduced = svd.fit_transform(split.train_x)
    model = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=settings.trees, early_stopping=False
    ).fit(reduced, split.prices)
    return np.asarray(model.predict(svd.transform(split.test_x)), dtype=float)


def nearest_neighbors(split: Split) -> Floats:
    """Return the median price of the most similar training items."""
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    count = min(split.settings.neighbors, split.train_x.shape[0])
    index = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    index.fit(split.train_x)
    with config_context(working_memory=128):  # MB of distances at once
        nearest = index.kneighbors(split.test_x, return_distance=False)
    return np.asarray(np.median(split.prices[nearest], axis=1), dtype=float)


BASELINES = {
    "mean_price": Baseline("mean price", "mean price of all", "constant", mean_price),
    "median_price": Baseline("median price", "median price of all", None, median_price),
    "category_median": Baseline(
        "median of its category",
        "median price of the category",
        "linear regression",
        category_median,
    ),
    "ridge": Baseline(
        "ridge on words", "linear model of words and pairs of words, in dollars", "NLP + LR", ridge
    ),
    "ridge_log": Baseline(
        "ridge on words, log price", "the same in log dollars", "NLP + LR", ridge_log
    ),
    "boosted_trees": Baseline(
        "boosted trees",
        "trees boosted for absolute error on the words' main directions",
        "XGBoost",
        boosted_trees,
    ),
    "nearest_neighbors": Baseline(
        "nearest neighbours",
        "median price of the most similar training products",
        None,
        nearest_neighbors,
    ),
}
