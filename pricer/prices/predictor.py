"""The predictor: descriptions to prices with intervals, from any thread."""

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from pricer.errors import BaseModelError, ItemsError, PricerError, first_line, quoted
from pricer.evidence.models import Neighbor, read_models
from pricer.evidence.wording import wording
from pricer.model.adapters import FIRST, adapter_sha256, load_adapter
from pricer.model.base import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.prices.batches import ALL_OF_IT, Reading, Share, predict_distributions
from pricer.prices.distribution import (
    ESTIMATES,
    KINDS,
    LEVELS,
    NO_DISTRIBUTION,
    PriceDistributions,
    calibrated,
    expected_error,
    interval,
)
from pricer.prices.model_check import check_scores
from pricer.prices.predictions import parse_price
from pricer.prices.record import (
    ServingRecord,
    check_belongs,
    model_sha256,
    read_record,
    record_of,
)
from pricer.prices.trie import build_price_trie
from pricer.products.items import clean_text
from pricer.products.prompts import build_prompt, cut_summaries
from pricer.workspace import Workspace, require

NO_DESCRIPTION = "no description"
SHOWN_NEIGHBORS = 3  # of an estimate at least, also where prompts tell fewer


@dataclass(frozen=True)
class PriceEstimate:
    """What a model says about the price of one product.

    Attributes:
        estimate_usd: the point estimate.
        low_usd: lower end of the interval.
        high_usd: its upper end.
        interval: its level, percent.
        calibrated: whether the interval is calibrated; if not, it is what the model itself says.
        expected_error_usd: mean absolute error of the estimate by the model's distribution.
        price_mass: the probability that a price comes next at all.
        dropped_mass: the probability left out unseen, which may be a price's.
        truncated: whether the description was cut to `prompts.cutoff` tokens.
        neighbors: training products that it is likened to, the nearest first; None where prompts
            tell no evidence.
        words_estimate_usd: what a linear model of words and of their prices says; None there too.
        probabilities: (max_price + 1,) of each whole-dollar price, where asked for.
    """

    estimate_usd: float
    low_usd: float
    high_usd: float
    interval: int
    calibrated: bool
    expected_error_usd: float
    price_mass: float
    dropped_mass: float
    truncated: bool
    neighbors: tuple[Neighbor, ...] | None = None
    words_estimate_usd: float | None = None
    probabilities: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Asked:
    """What is asked of a product's price.

    Attributes:
        point: median, mean, mode or greedy (0 where the text holds no number); None for what the
            predictor was made with.
        level: of the interval, whole percent from 1 to 99.
        distribution: keep the probability of every price.
    """

    point: str | None = None
    level: int = 80
    distribution: bool = False


class Predictor:
    """A base model with its adapter and calibration, ready to price products from any thread.

    Attributes:
        model: in evaluation mode.
        tokenizer: the base model's.
        settings: how it is asked for prices.
        offsets: conformal offset by level in percent, None without a calibration.
    """

    def __init__(
        self,
        base: Path | str,
        adapter: Path | str | None = None,
        *,
        evidence: Path | str | None = None,
        settings: ServingRecord | None = None,
        device: str = "auto",
        dequantize: bool = True,
    ) -> None:
        """Load a base model, with an adapter on it or without.

        Args:
            base: folder of the base model.
            adapter: folder of the adapter.
            evidence: folder of the models that give products their evidence, where prompts tell
                any.
            settings: a serving record; without one, what the adapter's card (of a merged model, its
                own) says of how it was trained, else the defaults, and intervals are the model's
                own.
            device: see `choose_device`.
            dequantize: see `load_base_model`.

        Raises:
            BaseModelError: a folder cannot be loaded, or its tokenizer cannot be used.
            PricerError: base model, adapter, evidence and settings do not belong together.
        """
        base, adapter = Path(base), Path(adapter) if adapter is not None else None
        evidence = Path(evidence) if evidence is not None else None
        self.settings = settings = settings or record_of(adapter or base)
        check_belongs(settings, base, adapter, evidence)
        self._evidence = read_models(evidence) if settings.evidence and evidence else None
        self._evidence_folder = evidence
        place = choose_device(device)
        dtype = choose_dtype(settings.dtype, place)
        self.model = load_base_model(
            base,
            device=place,
            dtype=dtype,
            quantization=settings.quantization,
            dequantize=dequantize,
        )
        self._adapter_name = FIRST
        self._named: dict[str, Predictor] = {}
        if adapter is not None:
            self.model = load_adapter(self.model, adapter, dtype)
        self._base, self._adapter = base, adapter
        self.tokenizer = load_tokenizer(base)
        self.offsets = settings.calibration.offsets if settings.calibration else None
        self._trie = build_price_trie(self.tokenizer, settings.max_price)
        self._batch_size = settings.batch_size
        # the model's own buffers are shared: one call at a time
        self._lock = threading.Lock()
        self._try(base)
        check_scores(self.model, self.tokenizer, str(base))

    def _try(self, base: Path) -> None:
        """Raise BaseModelError if the model cannot compute: some settings are used only then."""
        text = torch.tensor([[int(self.tokenizer.eos_token_id)]], device=self.model.device)
        try:
            with torch.inference_mode():
                self.model(input_ids=text)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the library raises many kinds for a broken configuration
            raise BaseModelError(
                f"{base}: the model cannot compute ({first_line(error)})"
            ) from error

    @classmethod
    def from_pipeline(
        cls, root: Path = Path(), *, record: Path | None = None, device: str = "auto"
    ) -> "Predictor":
        """Load what `dvc repro` left in `root`: base model, adapter and serving record.

        What `params.yaml` says now has no part in it: a knob that was edited and not run yet
        changes no price.

        Args:
            root: the project.
            record: a serving record in the place of the last run's, as recalibration writes one.
            device: see `choose_device`.

        Raises:
            PricerError: something is missing or does not fit.
        """
        left = Workspace(root)
        file = record or left.record
        require(left.base_model, left.adapter, file)
        settings = read_record(file)
        if settings.evidence:
            require(left.evidence_models)
        return cls(
            left.base_model,
            left.adapter,
            evidence=left.evidence_models if settings.evidence else None,
            settings=settings,
            device=device,
        )

    def beside(
        self,
        adapter: Path | str,
        *,
        evidence: Path | str | None = None,
        settings: ServingRecord | None = None,
    ) -> "Predictor":
        """Return a predictor with another adapter on the same base weights, held once.

        Both can be asked from any thread; one waits for the other.

        Args:
            adapter: folder of the adapter.
            evidence: see `Predictor`; not needed where it is this predictor's.
            settings: see `Predictor`; without them, what the adapter's card says, and else those
                of this predictor.

        Raises:
            BaseModelError: the adapter cannot be loaded.
            PricerError: it is not for this base model as it is loaded here, or this predictor has
                no adapter itself.
        """
        adapter = Path(adapter)
        if not isinstance(self.model, PeftModel):
            raise PricerError(f"{adapter}: goes beside another adapter, the predictor has none")
        settings = settings or record_of(adapter, among=self.settings)
        for name in ("quantization", "dtype"):
            if getattr(settings, name) != getattr(self.settings, name):
                raise PricerError(
                    f"{adapter} is for a base model loaded another way ({name}): it cannot share "
                    "the weights of this one"
                )
        other = copy.copy(self)
        other.settings, other._named = settings, {}
        if settings.evidence and evidence:
            other._evidence = read_models(Path(evidence))
        folder = Path(evidence) if evidence else self._evidence_folder
        check_belongs(settings, self._base, adapter, folder)
        other._adapter = adapter
        other._adapter_name = f"{FIRST}_{len(self.model.peft_config)}"
        dtype = choose_dtype(settings.dtype, self.model.device)
        with self._lock:
            load_adapter(self.model, adapter, dtype, name=other._adapter_name)
        other.offsets = settings.calibration.offsets if settings.calibration else None
        other._trie = build_price_trie(self.tokenizer, settings.max_price)
        other._batch_size = settings.batch_size
        return other

    def add_adapter(
        self,
        name: str,
        adapter: Path | str,
        *,
        evidence: Path | str | None = None,
        settings: ServingRecord | None = None,
    ) -> None:
        """Hold one more adapter on the same base weights, which `predict` asks by its name.

        Args:
            name: not yet taken.
            adapter: see `beside`.
            evidence: see `beside`.
            settings: see `beside`.

        Raises:
            BaseModelError: the adapter cannot be loaded.
            PricerError: see `beside`; or the name is taken.
        """
        if name in self._named:
            raise PricerError(f"an adapter named {quoted(name)} is held already: take another name")
        other = self.beside(adapter, evidence=evidence, settings=settings)
        if self._named.setdefault(name, other) is not other:  # another thread's came first
            raise PricerError(f"an adapter named {quoted(name)} is held already: take another name")

    def _by_name(self, name: str) -> "Predictor":
        if name not in self._named:
            held = ", ".join(self._named) or "none"
            raise PricerError(f"no adapter is named {quoted(name)} (held: {held}): add_adapter")
        return self._named[name]

    def predict(
        self,
        products: Sequence[str | Mapping[str, object]],
        *,
        adapter: str | None = None,
        point: str | None = None,
        level: int = 80,
        distribution: bool = False,
    ) -> list[PriceEstimate]:
        """Return an estimate for each product, in order.

        Args:
            products: descriptions, or items with a `summary`.
            adapter: name of one that `add_adapter` has put beside; None for this one.
            point: see `Asked`.
            level: see `Asked`.
            distribution: see `Asked`.

        Raises:
            ItemsError: a description is empty, or a product is neither text nor mapping.
            PricerError: there is no such adapter, point or level, the interval cannot be calibrated
                on the products there were, or the model gives no numbers for a product.
        """
        if adapter is not None:
            return self._by_name(adapter).predict(
                products, point=point, level=level, distribution=distribution
            )
        if isinstance(products, str | Mapping):
            raise ItemsError("predict takes a list of products, got one: predict([...])")
        texts = [_description(product) for product in products]
        if not all(texts):
            raise ItemsError(f"product {texts.index('') + 1}: {NO_DESCRIPTION}")
        found = self.answer(texts, [Asked(point, level, distribution)] * len(texts))
        estimates = [one for one in found if one is not None]
        if len(estimates) < len(found):
            raise PricerError(f"product {found.index(None) + 1}: {NO_DISTRIBUTION}")
        return estimates

    def predict_each(
        self,
        products: Sequence[str | Mapping[str, object]],
        *,
        point: str | None = None,
        level: int = 80,
        distribution: bool = False,
    ) -> list[PriceEstimate | str]:
        """Return an estimate for each product, or in words why there is none.

        Like `predict`, but for files where one bad product is no reason to price no other.

        Raises:
            PricerError: there is no such point or level, or the interval cannot be calibrated on
                the products there were.
        """
        texts = [_description(product) for product in products]
        described = [text for text in texts if text]
        asked = Asked(point, level, distribution)
        found = iter(self.answer(described, [asked] * len(described)))
        return [(next(found) or NO_DISTRIBUTION) if text else NO_DESCRIPTION for text in texts]

    def sha256(self) -> str:
        """Return one hash of the adapter and of how it is asked, see `model_sha256`."""
        return model_sha256(self.settings, adapter_sha256(self._adapter) if self._adapter else None)

    def check_asked(self, asked: Asked) -> None:
        """Raise PricerError if there is no such point or level, or no calibration for it."""
        if asked.point not in (None, *KINDS):
            raise PricerError(
                f"point must be {', '.join(ESTIMATES)} or greedy, got {quoted(asked.point)}"
            )
        if asked.level not in LEVELS:
            raise PricerError(f"an interval has a whole percent from 1 to 99, got {asked.level}")
        if self.offsets is not None and str(asked.level) not in self.offsets:
            raise PricerError(
                f"an interval of {asked.level}% cannot be had: "
                f"calibrated are {min(map(int, self.offsets))} to {max(map(int, self.offsets))}%"
            )

    def answer(self, texts: list[str], asked: Sequence[Asked]) -> list[PriceEstimate | None]:
        """Return an estimate for each description, None where the model gives no numbers.

        Args:
            texts: cleaned descriptions, see `clean_text`; none is empty.
            asked: what is asked of each.

        Raises:
            PricerError: see `check_asked`.
        """
        for one in set(asked):
            self.check_asked(one)
        if not texts:
            return []
        summaries, tokens = cut_summaries(self.tokenizer, texts, self.settings.cutoff)
        evidence = self._evidence_of(texts)
        lines = [line for line, _ in evidence]
        prompts = [build_prompt(*told) for told in zip(summaries, lines, strict=True)]
        points = [one.point or self.settings.point for one in asked]
        found = self.distributions(prompts, greedy="greedy" in points)
        return [
            self._estimate(
                found, row, point, one, truncated=tokens[row] > self.settings.cutoff, told=told
            )
            if usable
            else None
            for row, (usable, point, one, (_, told)) in enumerate(
                zip(found.usable, points, asked, evidence, strict=True)
            )
        ]

    def _estimate(
        self,
        found: PriceDistributions,
        row: int,
        point: str,
        asked: Asked,
        *,
        truncated: bool,
        told: dict[str, Any],
    ) -> PriceEstimate:
        """Return what a row of distributions says of what is asked."""
        distribution = found.probabilities[row : row + 1]
        if point == "greedy":
            estimate = parse_price(found.greedy_texts[row]) or 0.0
        else:
            [estimate] = ESTIMATES[point](distribution)
        low, high = interval(distribution, asked.level / 100)
        if self.offsets is not None:
            low, high = calibrated(low, high, self.offsets[str(asked.level)])
        return PriceEstimate(
            estimate_usd=float(estimate),
            low_usd=round(float(low[0]), 2),
            high_usd=round(float(high[0]), 2),
            interval=asked.level,
            calibrated=self.offsets is not None,
            expected_error_usd=round(float(expected_error(distribution, [estimate])[0]), 2),
            price_mass=float(found.price_mass[row]),
            dropped_mass=float(found.dropped_mass[row]),
            truncated=truncated,
            **told,
            probabilities=distribution[0] if asked.distribution else None,
        )

    def _evidence_of(self, texts: list[str]) -> list[tuple[str, dict[str, Any]]]:
        """Return what each prompt tells of similar products, and the same for an estimate."""
        told = self.settings.evidence
        if self._evidence is None or told is None:
            return [("", {})] * len(texts)
        table = self._evidence.of_texts(texts)
        lines = wording(table, neighbors=told.neighbors, words=told.words)
        neighbors = self._evidence.neighbors(table, max(told.neighbors, SHOWN_NEIGHBORS))
        estimates = table["words_estimate_usd"].round(2)
        return [
            (line, {"neighbors": those, "words_estimate_usd": estimate})
            for line, those, estimate in zip(lines, neighbors, estimates, strict=True)
        ]

    def distributions(
        self,
        prompts: list[str],
        *,
        greedy: bool = False,
        progress: bool = False,
        share: Share = ALL_OF_IT,
    ) -> PriceDistributions:
        """Return the distribution over the price of each prompt, in the order of `prompts`.

        Args:
            prompts: texts that end with the price prefix.
            greedy: the greedy texts too.
            progress: show a bar where there is more than a batch.
            share: called at once in several processes, the part of this one; all get the whole.
        """
        with self._lock:
            if isinstance(self.model, PeftModel):
                if self.model.active_adapter != self._adapter_name:
                    self.model.set_adapter(self._adapter_name)
            reading = Reading(
                self.settings.max_dropped_mass,
                self._batch_size,
                max_new_tokens=self.settings.max_new_tokens if greedy else 0,
                progress=progress,
            )
            found = predict_distributions(
                self.model, self.tokenizer, self._trie, prompts, reading, share
            )
            self._batch_size = found.batch_size  # what ran out of memory is not tried again
        if self.settings.calibration is None:
            return found
        return found.recentered(
            self.settings.calibration.intercept, self.settings.calibration.slope
        )


def _description(product: str | Mapping[str, object]) -> str:
    if not isinstance(product, str | Mapping):
        raise ItemsError(
            f"a product is a text or has a `summary`, got {quoted(product)} "
            f"({type(product).__name__})"
        )
    return clean_text(product if isinstance(product, str) else product.get("summary", ""))
