"""The table of evidence: a row for each product of a split."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.files import read_parquet, read_parquet_parts
from pricer.products.items import PART

Floats = NDArray[np.float64]

NEIGHBORS = 10  # by product

# beside the product's id
COLUMNS = {
    "neighbor_ids": "the most similar training products, the nearest first",
    "neighbor_prices": "what they cost, USD",
    "neighbor_similarities": "cosine of their weighted words with the product's, above 0, to 1",
    "words_estimate_usd": "what a linear model of words says the product costs, USD",
}


def no_evidence(count: int) -> pd.DataFrame:
    """Return COLUMNS of products that there is nothing to compare with."""
    kinds = {"neighbor_ids": np.int64, "neighbor_prices": float, "neighbor_similarities": float}
    lists = {name: [np.empty(0, kind)] * count for name, kind in kinds.items()}
    return pd.DataFrame(lists | {"words_estimate_usd": np.full(count, np.nan)})


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
    """Return what the neighbours suggest a product costs, USD; NaN where there are none.

    The mean of their prices in log dollars, weighted by the cube of their similarity.
    """
    told = zip(evidence["neighbor_prices"], evidence["neighbor_similarities"], strict=True)
    return np.array(
        [
            np.expm1(np.average(np.log1p(prices), weights=np.power(similarities, 3)))
            if len(prices)
            else np.nan
            for prices, similarities in told
        ],
        dtype=float,
    )
