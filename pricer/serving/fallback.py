"""What answers where the model cannot: the linear model of words and neighbours of the evidence."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pricer.errors import PricerError
from pricer.evidence.models import EvidenceModels, Neighbor, read_models
from pricer.evidence.table import read_evidence
from pricer.files import read_parquet
from pricer.prices.distribution import LEVELS, calibrated, conformal_offset
from pricer.workspace import Workspace, require

SHOWN_NEIGHBORS = 3


@dataclass(frozen=True)
class WordsEstimate:
    """What words and neighbours say of a price.

    Attributes:
        estimate_usd: the estimate.
        low_usd: lower end of its interval; None where none of this level could be calibrated.
        high_usd: its upper end.
        neighbors: the most similar training products.
    """

    estimate_usd: float
    low_usd: float | None
    high_usd: float | None
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class Fallback:
    """Models of evidence, with the offsets that make intervals of their estimates.

    Attributes:
        models: fitted on all training products.
        offsets: on the scale of log(1 + price), by level in percent; conformal, from the
            validation products, which the models have not seen.
    """

    models: EvidenceModels
    offsets: dict[int, float]
    # pandas makes the index that titles are found by when it is first needed
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def estimate(self, texts: Sequence[str], levels: Sequence[int]) -> list[WordsEstimate]:
        """Return what each description is likely to cost, with an interval of so many percent."""
        with self._lock:
            table = self.models.of_texts(texts)
            neighbors = self.models.neighbors(table, SHOWN_NEIGHBORS)
        estimates = table["words_estimate_usd"].to_numpy(dtype=float)
        return [
            WordsEstimate(round(float(estimate), 2), *self._interval(estimate, level), told)
            for estimate, level, told in zip(estimates, levels, neighbors, strict=True)
        ]

    def _interval(self, estimate: float, level: int) -> tuple[float | None, float | None]:
        if level not in self.offsets:
            return None, None
        low, high = calibrated(np.array([estimate]), np.array([estimate]), self.offsets[level])
        return round(float(low[0]), 2), round(float(high[0]), 2)


def load_fallback(root: Workspace) -> Fallback:
    """Read what `dvc repro` left: the models, and validation products to calibrate intervals on.

    Without these there are no intervals.

    Raises:
        PricerError: there are no models, or they are damaged.
    """
    require(root.evidence_models)
    models = read_models(root.evidence_models)
    split = "validation"
    if not all((folder / f"{split}.parquet").exists() for folder in (root.evidence, root.items)):
        return Fallback(models, {})
    estimates = read_evidence(root.evidence, split)["words_estimate_usd"].to_numpy(dtype=float)
    prices = read_parquet(root.items / f"{split}.parquet", ["price"])["price"].to_numpy()
    offsets = {}
    for level in LEVELS:
        try:
            offsets[level] = conformal_offset(prices, estimates, estimates, level / 100)
        except PricerError:  # too few products for a level as high
            break
    return Fallback(models, offsets)
