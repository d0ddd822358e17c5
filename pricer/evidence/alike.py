"""How alike the evidence of training products and of others is: a model learns from the first."""

import math
from typing import Any

import pandas as pd

from pricer.evidence.table import neighbors_estimate

# standard errors between two means before they count as different
DIFFERENT = 3.0


def compare_splits(
    items: dict[str, pd.DataFrame], evidence: dict[str, pd.DataFrame]
) -> dict[str, dict[str, Any]]:
    """Return by split how near the nearest products are, and how far off each piece alone is.

    Args:
        items: by split: price (USD).
        evidence: of these items, see `COLUMNS`.

    Returns:
        By split: n, and of products with neighbours `nearest_similarity`, of words and neighbours
        `words_mae` and `neighbors_mae` (USD), each with its standard error (`_se`).
    """
    return {split: _measure(items[split]["price"], table) for split, table in evidence.items()}


def _measure(prices: "pd.Series[float]", evidence: pd.DataFrame) -> dict[str, Any]:
    measured: dict[str, pd.Series[float]] = {
        "nearest_similarity": evidence["neighbor_similarities"].map(
            lambda similarities: similarities[0] if len(similarities) else math.nan
        ),
        "words_mae": (evidence["words_estimate_usd"] - prices).abs(),
        "neighbors_mae": (prices - neighbors_estimate(evidence)).abs(),
    }
    facts: dict[str, Any] = {"n": len(prices)}
    for name, values in measured.items():
        if values.notna().any():
            known = values.dropna().to_numpy()
            facts[name] = float(known.mean())
            facts[f"{name}_se"] = float(known.std() / math.sqrt(len(known)))
    return facts


def warnings(facts: dict[str, dict[str, Any]]) -> list[str]:
    """Say where evidence of validation or test products is not like that of training products.

    Args:
        facts: from `compare_splits`; what is not of a split is not looked at.
    """
    train, said = facts["train"], []
    for split, others in facts.items():
        for name in ("nearest_similarity", "words_mae", "neighbors_mae"):
            if name not in train or name not in others:
                continue
            gap = others[name] - train[name]
            error = math.hypot(others[f"{name}_se"], train[f"{name}_se"])
            if abs(gap) > DIFFERENT * error:
                said.append(
                    f"{name} is {others[name]:.4g} in {split} and {train[name]:.4g} in train, "
                    f"{abs(gap) / error:.1f} standard errors apart: "
                    "the model learns from other evidence than it will be asked with"
                )
    return said
