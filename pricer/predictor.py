"""Prediction: descriptions to prompts, prompts in batches to distributions over prices."""

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pricer.base_model import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.distribution import LEVELS, calibrated, interval, mean, mode, quantile
from pricer.errors import BaseModelError, ItemsError, PricerError
from pricer.items import clean_text
from pricer.params import read_params
from pricer.price_tokens import PriceTrie, build_price_trie, score_prices
from pricer.prompts import build_prompt, cut_summaries, encode_prompts

POINTS = {"median": lambda p: quantile(p, 0.5), "mean": mean, "mode": mode}
# as params.yaml is committed
QUANTIZATION = {
    "device": "auto",
    "dtype": "auto",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}

_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")


@dataclass(frozen=True)
class PriceDistributions:
    """What a model says about n prices.

    Attributes:
        probabilities: (n, max_price + 1), of each whole-dollar price; rows sum to 1.
        price_mass: (n,), the probability before normalisation that a price comes next.
        dropped_mass: (n,), the probability left out unseen, which may be a price's: with it,
            the price mass is at most their sum.
        greedy_texts: the n most likely continuations, token by token; empty where not asked for.
        batch_size: of the last forward pass, what memory allowed.
    """

    probabilities: NDArray[np.float64]
    price_mass: NDArray[np.float64]
    dropped_mass: NDArray[np.float64]
    greedy_texts: list[str]
    batch_size: int


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
            cutoff: tokens of a description that are kept.
            point: the estimate to give where a call does not say: median, mean, mode or greedy.
            max_price: highest price that is considered, USD.
            max_dropped_mass: see `score_prices`.
            batch_size: products a forward pass.
            max_new_tokens: of the greedy text, where that is asked for.

        Raises:
            BaseModelError: a folder cannot be loaded, or its tokenizer cannot be used.
        """
        kinds = dict(quantization)
        device = choose_device(kinds.pop("device"))
        dtype = choose_dtype(kinds.pop("dtype"), device)
        self.model = load_base_model(Path(base), device=device, dtype=dtype, **kinds)
        if adapter is not None:
            self.model = load_adapter(self.model, Path(adapter), dtype)
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
        self, prompts: list[str], *, greedy: bool = False, progress: bool = False
    ) -> PriceDistributions:
        """Return the distribution over the price of each prompt, in the order of `prompts`.

        Args:
            prompts: texts that end with the price prefix.
            greedy: the greedy texts too.
            progress: show a bar where there is more than a batch.
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


def parse_price(text: str) -> float | None:
    r"""Return the first number in generated text as USD, None where there is none.

    The reference recipe's rule: `$` and `,` are dropped, then the first match of
    `[-+]?\d*\.\d+|\d+`.
    """
    match = _NUMBER.search(text.replace("$", "").replace(",", ""))
    return float(match[0]) if match else None


def load_adapter(base_model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PeftModel:
    """Put the adapter in `folder` on `base_model`, for prediction in `dtype`.

    Raises:
        BaseModelError: there is no adapter, or it does not fit the base model.
    """
    if not (folder / "adapter_config.json").is_file():  # the library would ask the Hub for it
        raise BaseModelError(f"{folder}: no adapter there (no adapter_config.json)")
    try:
        model = PeftModel.from_pretrained(base_model, str(folder)).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise BaseModelError(f"{folder}: cannot be put on this base model ({first})") from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            # trained in float32; casting once is cheaper than with every token
            parameter.data = parameter.data.to(dtype)
    return model


def predict_distributions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    trie: PriceTrie,
    prompts: list[str],
    *,
    max_dropped_mass: float,
    batch_size: int,
    max_new_tokens: int,
    progress: bool = False,
) -> PriceDistributions:
    """Return the distribution over the price of each prompt, in the order of `prompts`.

    Args:
        model: base model, with or without an adapter, in evaluation mode.
        tokenizer: the base model's.
        trie: of the prices that are considered, by this tokenizer.
        prompts: texts that end with the price prefix.
        max_dropped_mass: see `score_prices`.
        batch_size: prompts a forward pass, batched by length; halved when memory runs out.
        max_new_tokens: of the greedy continuation; 0 for none.
        progress: show a bar where there is more than a batch.
    """
    encoded = encode_prompts(tokenizer, prompts)
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    probabilities = np.empty((len(prompts), len(trie.value_edges)))
    price_mass, dropped_mass = np.empty(len(prompts)), np.empty(len(prompts))
    texts = [""] * len(prompts) if max_new_tokens else []
    refresh_s = 0.1 if sys.stderr.isatty() else 30
    done = 0
    with (
        _contiguous_output_layer(model),
        tqdm(
            total=len(prompts),
            desc="predict",
            unit="item",
            mininterval=refresh_s,
            disable=not progress or len(prompts) <= batch_size,  # over before it says anything
        ) as bar,
    ):
        while done < len(order):
            rows = order[done : done + batch_size]
            try:
                log_probs, dropped, generated = _predict_batch(
                    model,
                    tokenizer,
                    trie,
                    [encoded[row] for row in rows],
                    max_dropped_mass=max_dropped_mass,
                    max_new_tokens=max_new_tokens,
                )
            except RuntimeError as error:
                if not _is_out_of_memory(error) or batch_size == 1:
                    raise
                batch_size = batch_size // 2
                bar.write(
                    f"out of memory: predict.batch_size {batch_size} from here on", file=sys.stderr
                )
                continue
            mass = np.exp(log_probs)
            price_mass[rows] = mass.sum(axis=1)
            dropped_mass[rows] = dropped
            # relative to the likeliest price: also where the whole mass is next to nothing
            relative = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
            probabilities[rows] = relative / relative.sum(axis=1, keepdims=True)
            for row, text in zip(rows, generated, strict=bool(generated)):
                texts[row] = text
            done += len(rows)
            bar.update(len(rows))
    return PriceDistributions(probabilities, price_mass, dropped_mass, texts, batch_size)


@contextmanager
def _contiguous_output_layer(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Hand the output layer contiguous positions while the block runs.

    For the strided slice of the last positions it would copy its whole weight once a row: that
    took half of a pass over 32 prompts.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda layer, hidden: (hidden[0].contiguous(),)
    )
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def _predict_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    trie: PriceTrie,
    encoded: list[list[int]],
    *,
    max_dropped_mass: float,
    max_new_tokens: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    longest = max(map(len, encoded))
    input_ids = torch.full((len(encoded), longest), int(tokenizer.pad_token_id))
    attention_mask = torch.zeros_like(input_ids)
    # padded after what all prompts begin with, so that it is read once for all
    shared = min(len(os.path.commonprefix(encoded)), min(map(len, encoded)) - 1)
    for row, ids in enumerate(encoded):
        places = [*range(shared), *range(longest - len(ids) + shared, longest)]
        input_ids[row, places] = torch.tensor(ids)
        attention_mask[row, places] = 1
    input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
    log_probs, dropped, cache = score_prices(
        model,
        trie,
        input_ids,
        attention_mask,
        max_dropped_mass=max_dropped_mass,
        keep_cache=max_new_tokens > 0,
    )
    texts = []
    if max_new_tokens:
        texts = _continue(model, tokenizer, input_ids, attention_mask, cache, max_new_tokens)
    return log_probs.cpu().numpy(), dropped.cpu().numpy(), texts


def _continue(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    cache: DynamicCache,
    max_new_tokens: int,
) -> list[str]:
    """Return the most likely continuations, token by token; the prompts are not read again."""
    longest = input_ids.shape[1]
    # the last prompt token is read once more, for its logits
    cache.crop(longest - 1 - cache.get_seq_length())
    generated = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        past_key_values=cache,
        # nothing of the base model's own generation settings, which may sample
        generation_config=GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )
    texts: list[str] = tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
    return texts


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
