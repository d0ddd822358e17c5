"""Prompts in batches to distributions over prices, and to greedy text."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pricer.model.folder import check_window
from pricer.model.padding import padded
from pricer.prices.distribution import PriceDistributions
from pricer.prices.reading import read_prices
from pricer.prices.trie import PriceTrie
from pricer.products.prompts import encode_prompts


@dataclass(frozen=True)
class Reading:
    """How prompts are read.

    Attributes:
        max_dropped_mass: see `read_prices`.
        batch_size: prompts a forward pass, batched by length; halved when memory runs out.
        max_new_tokens: of the greedy continuation; 0 for none.
        progress: show a bar where there is more than a batch.
    """

    max_dropped_mass: float
    batch_size: int
    max_new_tokens: int = 0
    progress: bool = False


@dataclass(frozen=True)
class Share:
    """Which of several processes this is: it reads its batches, and gets the others' results."""

    rank: int = 0
    processes: int = 1


ALL_OF_IT = Share()


def predict_distributions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    trie: PriceTrie,
    prompts: list[str],
    reading: Reading,
    share: Share = ALL_OF_IT,
) -> PriceDistributions:
    """Return the distribution over the price of each prompt, in the order of `prompts`.

    Args:
        model: base model, with or without an adapter, in evaluation mode.
        tokenizer: the base model's.
        trie: of the prices that are considered, by this tokenizer.
        prompts: texts that end with the price prefix.
        reading: how they are read.
        share: called at once in several processes, the part of this one.
    """
    encoded = encode_prompts(tokenizer, prompts)
    check_window(
        vars(model.config.get_text_config()), max(map(len, encoded), default=0), "the base model"
    )
    rows = _own_rows(encoded, reading.batch_size, share)
    texts = [""] * len(prompts) if reading.max_new_tokens else []
    found = PriceDistributions(
        np.empty((len(prompts), len(trie.value_edges))),
        np.empty(len(prompts)),
        np.empty(len(prompts)),
        texts,
        reading.batch_size,
    )
    done = 0
    with contiguous_output_layer(model), _bar(len(rows), reading, share) as bar:
        while done < len(rows):
            batch = rows[done : done + found.batch_size]
            prompt_ids = [encoded[row] for row in batch]
            try:
                said = _predict_batch(model, tokenizer, trie, prompt_ids, reading)
            except RuntimeError as error:
                if not is_out_of_memory(error) or found.batch_size == 1:
                    raise
                found = replace(found, batch_size=found.batch_size // 2)
                bar.write(
                    f"out of memory: predict.batch_size {found.batch_size} from here on",
                    file=sys.stderr,
                )
                continue
            _fill_in(found, batch, *said)
            done += len(batch)
            bar.update(len(batch))
    if share.processes > 1:
        _gather(found, rows, share.processes)
    return found


def _own_rows(encoded: list[list[int]], batch_size: int, share: Share) -> list[int]:
    """Return the rows of this process's batches, the longest prompts first.

    Batch by batch, so that each is the same whatever the number of processes.
    """
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    starts = range(share.rank * batch_size, len(order), share.processes * batch_size)
    return [row for start in starts for row in order[start : start + batch_size]]


def _bar(total: int, reading: Reading, share: Share) -> "tqdm[NoReturn]":
    # with one batch it is over before it says anything
    hidden = not reading.progress or share.rank > 0 or total <= reading.batch_size
    interval_s = 0.1 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc="predict", unit="item", mininterval=interval_s, disable=hidden)


def _fill_in(
    found: PriceDistributions,
    rows: list[int],
    log_probs: NDArray[np.float64],
    dropped: NDArray[np.float64],
    texts: list[str],
) -> None:
    """Put what was read of some prompts into their rows."""
    found.price_mass[rows] = np.exp(log_probs).sum(axis=1)
    found.dropped_mass[rows] = dropped
    with np.errstate(invalid="ignore"):  # NaN stays NaN, and is no usable distribution
        # relative to the likeliest price: also where the whole mass is next to nothing
        relative = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
        found.probabilities[rows] = relative / relative.sum(axis=1, keepdims=True)
    for row, text in zip(rows, texts, strict=bool(texts)):
        found.greedy_texts[row] = text


def _gather(found: PriceDistributions, rows: list[int], processes: int) -> None:
    """Complete what this process has read of some rows with what the others have of theirs."""
    arrays = (found.probabilities, found.price_mass, found.dropped_mass)
    own = (rows, [array[rows] for array in arrays], found.greedy_texts)
    every: list[Any] = [None] * processes
    torch.distributed.all_gather_object(every, own)
    for others, parts, texts in every:
        for array, part in zip(arrays, parts, strict=True):
            array[others] = part
        if texts:
            for row in others:
                found.greedy_texts[row] = texts[row]


@contextmanager
def contiguous_output_layer(model: PreTrainedModel | PeftModel) -> Iterator[None]:
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
    reading: Reading,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    input_ids, attention_mask = (
        one.to(model.device) for one in padded(encoded, int(tokenizer.pad_token_id))
    )
    log_probs, dropped, cache = read_prices(
        model,
        trie,
        input_ids,
        attention_mask,
        max_dropped_mass=reading.max_dropped_mass,
        keep_cache=reading.max_new_tokens > 0,
    )
    texts = []
    if most := reading.max_new_tokens:
        texts = _continue(model, tokenizer, input_ids, attention_mask, cache, most)
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


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a GPU's or the machine's memory was too small; torch has no error for both."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
