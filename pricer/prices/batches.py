"""Prompts in batches to distributions over prices, and to greedy text."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pricer.prices.distribution import PriceDistributions
from pricer.prices.reading import read_prices
from pricer.prices.trie import PriceTrie
from pricer.products.prompts import encode_prompts


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
    rank: int = 0,
    processes: int = 1,
) -> PriceDistributions:
    """Return the distribution over the price of each prompt, in the order of `prompts`.

    Args:
        model: base model, with or without an adapter, in evaluation mode.
        tokenizer: the base model's.
        trie: of the prices that are considered, by this tokenizer.
        prompts: texts that end with the price prefix.
        max_dropped_mass: see `read_prices`.
        batch_size: prompts a forward pass, batched by length; halved when memory runs out.
        max_new_tokens: of the greedy continuation; 0 for none.
        progress: show a bar where there is more than a batch.
        rank: of this process; it reads its share of the batches, and gets the others' results.
        processes: how many call this at once, with the same arguments but for `rank`.
    """
    encoded = encode_prompts(tokenizer, prompts)
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    # batch by batch, so that each is the same whatever the number of processes
    starts = range(rank * batch_size, len(order), processes * batch_size)
    order = [row for start in starts for row in order[start : start + batch_size]]
    probabilities = np.empty((len(prompts), len(trie.value_edges)))
    price_mass, dropped_mass = np.empty(len(prompts)), np.empty(len(prompts))
    texts = [""] * len(prompts) if max_new_tokens else []
    refresh_s = 0.1 if sys.stderr.isatty() else 30
    done = 0
    with (
        contiguous_output_layer(model),
        tqdm(
            total=len(order),
            desc="predict",
            unit="item",
            mininterval=refresh_s,
            # over before it says anything
            disable=not progress or rank > 0 or len(order) <= batch_size,
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
                if not is_out_of_memory(error) or batch_size == 1:
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
    if processes > 1:
        for rows, *found in _gathered(
            (order, probabilities[order], price_mass[order], dropped_mass[order], texts), processes
        ):
            probabilities[rows], price_mass[rows], dropped_mass[rows], others = found
            if max_new_tokens:
                for row in rows:
                    texts[row] = others[row]
    return PriceDistributions(probabilities, price_mass, dropped_mass, texts, batch_size)


def _gathered(own: Any, processes: int) -> list[Any]:
    """Return what each process has, in the order of their ranks."""
    every = [None] * processes
    torch.distributed.all_gather_object(every, own)
    return every


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
    log_probs, dropped, cache = read_prices(
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


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a GPU's or the machine's memory was too small; torch has no error for both."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
