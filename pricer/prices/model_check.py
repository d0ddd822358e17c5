"""Whether prices can be read from a kind of model at all: tried, before anything is built on it."""

import math

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pricer.errors import BaseModelError, first_line
from pricer.model.attention import KINDS
from pricer.model.padding import padded
from pricer.prices.reading import read_prices
from pricer.prices.trie import build_price_trie
from pricer.products.prompts import build_prompt, encode_prompts

# of different lengths: some are padded between the question and the description
TEXTS = ("A steel kettle, 1.7 litres, with a lid and a red handle", "A lamp", "Chair, oak")
TRIED = (7, 17)  # USD
# difference of log probabilities: bfloat16 and 4 bits move them by a tenth at most
TOLERANCE = 0.3


def check_scores(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, where: str
) -> None:
    """Raise BaseModelError unless prices that are read along a trie are the model's own.

    Padding, positions, masks and caches as `read_prices` needs them are ignored by some kinds of
    models and refused by others: what they give is compared with plain passes over single texts.
    The kinds that tests hold for right are not tried.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        where: the model's folder, for the message.
    """
    if (kind := model.config.model_type) in KINDS:
        return
    try:
        off = _largest_difference(model, tokenizer)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model makes of what it does not know
        raise BaseModelError(
            f"{where}: prices cannot be read from models of kind {kind} ({first_line(error)}); "
            f"from these they can: {', '.join(KINDS)}"
        ) from error
    if not off < TOLERANCE:
        raise BaseModelError(
            f"{where}: prices read from this model of kind {kind} are not its own, by a factor of "
            f"{math.exp(off):.1f}: it takes no positions or masks of others, as these do: "
            f"{', '.join(KINDS)}"
        )


@torch.inference_mode()
def _largest_difference(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase
) -> float:
    """Return by how much the log probability of some price differs from that in a plain pass."""
    prompts = [build_prompt(text) for text in TEXTS]
    encoded = encode_prompts(tokenizer, prompts)
    trie = build_price_trie(tokenizer, max(TRIED) + 2)
    input_ids, attention_mask = (
        one.to(model.device) for one in padded(encoded, int(tokenizer.pad_token_id))
    )
    found = [
        read_prices(model, trie, input_ids, attention_mask, max_dropped_mass=0.0, at_once=at_once)[
            0
        ]
        for at_once in (True, False)
    ]
    differences = []
    for price in TRIED:
        both = encode_prompts(tokenizer, [f"{prompt}{price}" for prompt in prompts])
        for row, (ids, prompt) in enumerate(zip(both, encoded, strict=True)):
            whole = torch.tensor([ids], device=model.device)
            log_probs = model(input_ids=whole).logits[0].double().log_softmax(-1)
            plain = sum(log_probs[place - 1, ids[place]] for place in range(len(prompt), len(ids)))
            differences += [float((way[row, price] - plain).abs()) for way in found]
    return max(differences)
