"""Evidence for every split; for training products out of fold, as if they were new."""

from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.evidence.models import EvidenceModels, fit_models, word_vectors
from pricer.evidence.table import no_evidence
from pricer.params import Evidence
from pricer.products.items import title_key


def make_evidence(
    splits: dict[str, pd.DataFrame], settings: Evidence
) -> tuple[dict[str, pd.DataFrame], EvidenceModels]:
    """Return the evidence for the products of each split, and the models fitted on all of "train".

    A training product's comes from models fitted without its fold; all others' from those fitted
    on every training product. No price of another split has a part in any.

    Args:
        splits: items by split: id, title, summary, price (USD).
        settings: the knobs.

    Returns:
        By split: id and `COLUMNS`, in the order of the items.
    """
    train = splits["train"]
    vectors, weights = word_vectors(train["summary"].tolist())
    models = fit_models(train, vectors, weights, ridge_alpha=settings.ridge_alpha)
    tables = {
        split: models.of_texts(items["summary"].tolist())
        for split, items in splits.items()
        if split != "train"
    }
    parts = []
    folds = assign_folds(train["title"], settings.folds, seed=settings.seed)
    for fold in np.unique(folds):
        rows, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(others):  # all titles are alike
            parts.append(no_evidence(len(rows)).set_axis(rows))
            continue
        without = fit_models(
            train.iloc[others], vectors[others], weights, ridge_alpha=settings.ridge_alpha
        )
        parts.append(without.of_vectors(vectors[rows]).set_axis(rows))
    tables["train"] = pd.concat(parts).sort_index()
    for split, table in tables.items():
        table.insert(0, "id", splits[split]["id"].to_numpy())
    return tables, models


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
