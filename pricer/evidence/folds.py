"""Evidence for every split; for training products out of fold, as if they were new."""

from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.evidence.approximate import check_installed
from pricer.evidence.models import EvidenceModels, fit_models, make_table, word_vectors
from pricer.evidence.table import NEIGHBORS, no_evidence
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
    train = splits["train"]
    check_installed(len(train))
    vectors, weights = word_vectors(train["summary"].tolist())
    models = fit_models(train, vectors, weights, ridge_alpha=settings.ridge_alpha)
    tables = {
        split: models.of_texts(items["summary"].tolist())
        for split, items in splits.items()
        if split != "train"
    }
    folds = assign_folds(train["title"], settings.folds, seed=settings.seed)
    parts = []
    for fold in np.unique(folds):
        own = folds == fold
        part = _of_fold(models, own, settings.ridge_alpha)
        parts.append(part.set_axis(np.flatnonzero(own)))
    tables["train"] = pd.concat(parts).sort_index()
    for split, table in tables.items():
        table.insert(0, "id", splits[split]["id"].to_numpy())
    return tables, models


def _of_fold(models: EvidenceModels, own: NDArray[np.bool_], ridge_alpha: float) -> pd.DataFrame:
    """Return the evidence for those of the models' m products that are in one fold, `own` (m,)."""
    if own.all():  # all titles are alike
        return no_evidence(len(own))
    words = fit_log_prices(models.vectors[~own], models.products["price"][~own], ridge_alpha)
    vectors = models.vectors[own]
    nearest = models.index.nearest(vectors, NEIGHBORS, without=own)
    return make_table(models.products, nearest, words.estimate(vectors))


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
