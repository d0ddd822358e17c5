"""Evidence for every split; for training products out of fold, as if they were new."""

from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pricer.evidence.approximate import Index, check_installed, make_index
from pricer.evidence.models import EvidenceModels, make_table, word_vectors
from pricer.evidence.neighbors import Nearest, no_neighbors
from pricer.evidence.table import NEIGHBORS
from pricer.evidence.words import fit_log_prices
from pricer.params import Evidence
from pricer.products.items import title_key


def make_evidence(
    splits: dict[str, pd.DataFrame], settings: Evidence
) -> tuple[dict[str, pd.DataFrame], EvidenceModels]:
    """Return the evidence for the products of each split, and the models fitted on all of "train".

    A training product's comes from a linear model fitted without its fold, and from neighbours of
    other folds; all others' from every training product. No price of another split has a part in
    any.

    Args:
        splits: items by split: id, title, summary, price (USD).
        settings: the knobs.

    Returns:
        By split: id and `COLUMNS`, in the order of the items.

    Raises:
        PricerError: there are too many for what is installed.
    """
    train, alpha = splits["train"], settings.ridge_alpha
    check_installed(len(train))
    vectors, weights = word_vectors(train["summary"].tolist())
    index, prices = make_index(vectors), train["price"].to_numpy(float)
    folds = assign_folds(train["title"], settings.folds, seed=settings.seed)
    # twice as many as are told, so that enough are left when another fold is taken out too
    nearest = _nearest_of_other_folds(index, vectors, folds, 2 * NEIGHBORS)
    suggested = nearest.first(NEIGHBORS).suggested_price(prices)
    models = EvidenceModels(
        train[["id", "title", "price"]].reset_index(drop=True),
        vectors,
        weights,
        fit_log_prices(vectors, suggested, prices, alpha),
        index,
    )
    estimates = np.full(len(train), np.nan)
    for fold in np.unique(folds):
        own = folds == fold
        if not own.all():  # all titles are alike
            others = nearest.without(own).first(NEIGHBORS).suggested_price(prices)
            words = fit_log_prices(vectors[~own], others[~own], prices[~own], alpha)
            estimates[own] = words.estimate(vectors[own], suggested[own])
    tables = {
        split: models.of_texts(items["summary"].tolist())
        for split, items in splits.items()
        if split != "train"
    }
    tables["train"] = make_table(models.products, nearest.first(NEIGHBORS), estimates)
    for split, table in tables.items():
        table.insert(0, "id", splits[split]["id"].to_numpy())
    return tables, models


def _nearest_of_other_folds(
    index: Index, vectors: csr_matrix, folds: NDArray[np.int64], count: int
) -> Nearest:
    """Return the nearest `count` of the m products of an index to each, of other folds than its."""
    nearest = no_neighbors(len(folds), count)
    for fold in np.unique(folds):
        own = folds == fold
        found = index.nearest(vectors[own], count, without=own)
        nearest.rows[own], nearest.similarities[own] = found.rows, found.similarities
    return nearest


def assign_folds(titles: "pd.Series[str]", folds: int, *, seed: int) -> NDArray[np.int64]:
    """Return the fold of each product, whatever the order of rows; near-identical titles share one.

    With fewer distinct titles than folds, each has one to itself.
    """
    keys = titles.map(title_key)
    ranked = sorted(
        set(keys), key=lambda key: blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    )
    fold = {key: place % folds for place, key in enumerate(ranked)}
    return keys.map(fold).to_numpy(dtype=np.int64)
