"""The table of evidence: a row for each product of a split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.evidence.neighbors import suggested_price
from pricer.files import read_parquet, read_parquet_parts
from pricer.products.items import PART

Floats = NDArray[np.float64]

NEIGHBORS = 10  # by product

# beside the product's id
COLUMNS = {
    "neighbor_ids": "the most similar training products, the nearest first",
    "neighbor_prices": "what they cost, USD",
    "neighbor_similarities": "cosine of their weighted words with the product's, above 0, to 1",
    "words_estimate_usd": "what a linear model of words and of these says it costs, USD",
}


def read_evidence(folder: Path, split: str) -> pd.DataFrame:
    """Read the evidence of one split: id and COLUMNS, in the order of its items."""
    return read_parquet(folder / f"{split}.parquet", ["id", *COLUMNS])


def read_evidence_parts(folder: Path, split: str) -> Iterator[pd.DataFrame]:
    """Yield the evidence of one split in the parts that `read_item_parts` yields items in."""
    return read_parquet_parts(folder / f"{split}.parquet", ["id", *COLUMNS], rows=PART)


def nearest_similarity(evidence: pd.DataFrame) -> Floats:
    """Return how similar the nearest neighbour of each product is; NaN where there are none."""
    return np.array(
        [told[0] if len(told) else np.nan for told in evidence["neighbor_similarities"]],
        dtype=float,
    )


def neighbors_estimate(evidence: pd.DataFrame) -> Floats:
    """Return what the neighbours suggest a product costs, USD; NaN where there are none."""
    prices, similarities = (
        _padded(evidence[name]) for name in ("neighbor_prices", "neighbor_similarities")
    )
    return suggested_price(prices, similarities)


def _padded(lists: "pd.Series[Any]") -> Floats:
    """Return lists of at most NEIGHBORS numbers as rows, with zeros at the end."""
    table = np.zeros((len(lists), NEIGHBORS))
    for row, values in enumerate(lists):
        table[row, : len(values)] = values
    return table
