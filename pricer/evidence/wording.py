"""Evidence in words, as a prompt tells it."""

import math

import pandas as pd

from pricer.products.prompts import evidence_line


def wording(evidence: pd.DataFrame, *, neighbors: int, words: bool) -> list[str]:
    """Return what a prompt says of each product's evidence; "" where there is none.

    Args:
        evidence: a row for each product: neighbor_prices, words_estimate_usd.
        neighbors: nearest products whose prices are told.
        words: whether the estimate of the words is told.
    """
    told = zip(evidence["neighbor_prices"], evidence["words_estimate_usd"], strict=True)
    return [
        evidence_line(
            list(prices[:neighbors]), estimate if words and not math.isnan(estimate) else None
        )
        for prices, estimate in told
    ]
