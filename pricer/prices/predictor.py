"""The predictor: descriptions to prices with intervals, from any thread."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricer.errors import ItemsError, PricerError
from pricer.model.adapters import load_adapter
from pricer.model.base import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.params import read_params
from pricer.prices.batches import predict_distributions
from pricer.prices.distribution import (
    LEVELS,
    PriceDistributions,
    calibrated,
    interval,
    mean,
    mode,
    quantile,
)
from pricer.prices.predictions import parse_price
from pricer.prices.trie import build_price_trie
from pricer.products.items import clean_text
from pricer.products.prompts import build_prompt, cut_summaries

POINTS = {"median": lambda p: quantile(p, 0.5), "mean": mean, "mode": mode}
# as params.yaml is committed
QUANTIZATION = {
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}


@dataclass(frozen=True)
class PriceEstimate:
    """What a model says about the price of one product.

    Attributes:
        price_usd: the point estimate.
        low_usd: lower end of the interval.
        high_usd: its upper end.
        interval: its level, percent.
        calibrated: whether the interval is calibrated; if not, it is what the model itself says.
        price_mass: the probability that a price comes next at all.
        dropped_mass: the probability left out unseen, which may be a price's.
        truncated: whether the description was cut to `prompts.cutoff` tokens.
        probabilities: (max_price + 1,) of each whole-dollar price, where asked for.
    """

    price_usd: float
    low_usd: float
    high_usd: float
    interval: int
    calibrated: bool
    price_mass: float
    dropped_mass: float
    truncated: bool
    probabilities: NDArray[np.float64] | None = None


class Predictor:
    """A base model with its adapter and calibration, ready to price products from any thread.

    Attributes:
        model: in evaluation mode.
        tokenizer: the base model's.
        offsets: conformal offset by level in percent, None without a calibration.
        point: the estimate that is given where a call does not say.
    """

    def __init__(
        self,
        base: Path | str,
        adapter: Path | str | None = None,
        *,
        offsets: Mapping[str, float] | None = None,
        quantization: Mapping[str, Any] = QUANTIZATION,
        device: str = "auto",
        dtype: str = "auto",
        cutoff: int = 96,
        point: str = "median",
        max_price: int = 999,
        max_dropped_mass: float = 0.2,
        batch_size: int = 32,
        max_new_tokens: int = 8,
    ) -> None:
        """Load a base model, with an adapter on it or without.

        What is not given is as in the committed `params.yaml`.

        Args:
            base: folder of the base model.
            adapter: folder of the adapter.
            offsets: conformal offset by level in percent, from `calibration_offsets`; without
                them intervals are what the model itself says, and marked so.
            quantization: the knobs of that section of `params.yaml`, all of them.
            device: see `choose_device`.
            dtype: see `choose_dtype`.
            cutoff: tokens of a description that are kept.
            point: the estimate to give where a call does not say: median, mean, mode or greedy.
            max_price: highest price that is considered, USD.
            max_dropped_mass: see `read_prices`.
            batch_size: products a forward pass.
            max_new_tokens: of the greedy text, where that is asked for.

        Raises:
            BaseModelError: a folder cannot be loaded, or its tokenizer cannot be used.
        """
        place = choose_device(device)
        kind = choose_dtype(dtype, place)
        self.model = load_base_model(Path(base), device=place, dtype=kind, **quantization)
        if adapter is not None:
            self.model = load_adapter(self.model, Path(adapter), kind)
        self.tokenizer = load_tokenizer(Path(base))
        self.offsets = offsets
        self._trie = build_price_trie(self.tokenizer, max_price)
        self._cutoff = cutoff
        self.point = point
        self._max_dropped_mass = max_dropped_mass
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        # the model's own buffers are shared: one call at a time
        self._lock = threading.Lock()

    @classmethod
    def from_pipeline(cls, root: Path = Path()) -> "Predictor":
        """Load what `dvc repro` left in `root`: base model, adapter and calibration.

        Raises:
            PricerError: something is missing or does not fit.
        """
        params = read_params(root / "params.yaml")
        base, adapter = root / "data/base_model", root / "data/adapter"
        calibration = root / "data/predictions/tuned_calibration.json"
        for needed in (base, adapter, calibration):
            if not needed.exists():
                raise PricerError(f"{needed} is missing: run `make repro` or `dvc checkout` first")
        return cls(
            base,
            adapter,
            offsets=json.loads(calibration.read_text(encoding="utf-8"))["offsets"],
            quantization=params.quantization.model_dump(),
            device=params.compute.device,
            dtype=params.compute.dtype,
            cutoff=params.prompts.cutoff,
            **params.predict.model_dump(exclude={"calibration_size"}),
        )

    def predict(
        self,
        products: Sequence[str | Mapping[str, object]],
        *,
        point: str | None = None,
        level: int = 80,
        distribution: bool = False,
    ) -> list[PriceEstimate]:
        """Return an estimate for each product, in order.

        Args:
            products: descriptions, or items with a `summary`.
            point: median, mean, mode or greedy (0 where the text holds no number); None for what
                the predictor was made with.
            level: of the interval, whole percent from 1 to 99.
            distribution: keep the probability of every price.

        Raises:
            ItemsError: a description is empty.
            PricerError: there is no such point or level, or the interval cannot be calibrated on
                the products there were.
        """
        point = point or self.point
        if point not in (*POINTS, "greedy"):
            raise PricerError(f"point must be {', '.join(POINTS)} or greedy, got {point!r}")
        self._check_level(level)
        texts = [
            clean_text(product if isinstance(product, str) else product.get("summary", ""))
            for product in products
        ]
        if not all(texts):
            raise ItemsError(f"product {texts.index('') + 1}: no description")
        summaries, tokens = cut_summaries(self.tokenizer, texts, self._cutoff)
        prompts = [build_prompt(summary) for summary in summaries]
        found = self.distributions(prompts, greedy=point == "greedy")
        if point == "greedy":
            prices = np.array([parse_price(text) or 0.0 for text in found.greedy_texts])
        else:
            prices = POINTS[point](found.probabilities)
        low, high = interval(found.probabilities, level / 100)
        if self.offsets is not None:
            low, high = calibrated(low, high, self.offsets[str(level)])
        return [
            PriceEstimate(
                price_usd=float(prices[row]),
                low_usd=round(float(low[row]), 2),
                high_usd=round(float(high[row]), 2),
                interval=level,
                calibrated=self.offsets is not None,
                price_mass=float(found.price_mass[row]),
                dropped_mass=float(found.dropped_mass[row]),
                truncated=tokens[row] > self._cutoff,
                probabilities=found.probabilities[row] if distribution else None,
            )
            for row in range(len(texts))
        ]

    def distributions(
        self,
        prompts: list[str],
        *,
        greedy: bool = False,
        progress: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> PriceDistributions:
        """Return the distribution over the price of each prompt, in the order of `prompts`.

        Args:
            prompts: texts that end with the price prefix.
            greedy: the greedy texts too.
            progress: show a bar where there is more than a batch.
            rank: of this process among those that share the work.
            processes: how many these are; all get the whole result.
        """
        with self._lock:
            found = predict_distributions(
                self.model,
                self.tokenizer,
                self._trie,
                prompts,
                max_dropped_mass=self._max_dropped_mass,
                batch_size=self._batch_size,
                max_new_tokens=self._max_new_tokens if greedy else 0,
                progress=progress,
                rank=rank,
                processes=processes,
            )
            self._batch_size = found.batch_size  # what ran out of memory is not tried again
        return found

    def _check_level(self, level: int) -> None:
        if level not in LEVELS:
            raise PricerError(f"an interval has a whole percent from 1 to 99, got {level}")
        if self.offsets is not None and str(level) not in self.offsets:
            raise PricerError(
                f"an interval of {level}% cannot be had: "
                f"calibrated are {min(map(int, self.offsets))} to {max(map(int, self.offsets))}%"
            )
