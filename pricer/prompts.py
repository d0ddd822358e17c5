"""Items to prompts and completions, and these to token ids, one way for every use."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from pricer.errors import ItemsError, PricerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

QUESTION = "What does this cost to the nearest dollar?"
PREFIX = "Price is $"

BATCH = 1000  # texts tokenized at once: bounded memory, all of the tokenizer's threads


def build_prompt(summary: str) -> str:
    """Return question, summary and the prefix that a price continues."""
    return f"{QUESTION}\n\n{summary}\n\n{PREFIX}"


def parse_prompt(prompt: str) -> str:
    """Return the summary in a prompt of `build_prompt`'s form, whatever it asks; "" in another."""
    question, _, rest = prompt.partition("\n\n")
    summary, _, prefix = rest.rpartition("\n\n")
    return summary if question and prefix.strip() == PREFIX else ""


def build_completion(price: float, *, rounded: bool) -> str:
    """Return the text of a price in USD: "219.00" when rounded to the dollar, else "218.9"."""
    return f"{round(price)}.00" if rounded else str(price)


def cut_summaries(
    tokenizer: "Tokenizer", summaries: list[str], cutoff: int
) -> tuple[list[str], list[int]]:
    """Cut each summary after `cutoff` tokens, never inside a character.

    Returns:
        The summaries, each a prefix of the one given, and how many tokens each had before.
    """
    texts: list[str] = []
    tokens: list[int] = []
    for batch in _batches(summaries):
        encoded = tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True)
        for text, offsets in zip(batch, encoded["offset_mapping"], strict=True):
            tokens.append(len(offsets))
            if len(offsets) > cutoff:
                # a character of several tokens is dropped when not all of them fit
                text = text[: min(offsets[cutoff - 1][1], offsets[cutoff][0])]
            texts.append(text)
    return texts, tokens


def encode_prompts(tokenizer: "Tokenizer", prompts: list[str]) -> list[list[int]]:
    """Return the token ids of each prompt, as training and prediction both see them.

    They begin with the begin-of-text token where the tokenizer adds one, and end with the prefix.
    """
    begin = _begin_ids(tokenizer)
    return [
        begin + ids
        for batch in _batches(prompts)
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]
    ]


def encode_completions(
    tokenizer: "Tokenizer", prompts: list[str], completions: list[str]
) -> list[list[int]]:
    """Return the token ids that follow each prompt's: its completion's and the end-of-text token.

    Raises:
        PricerError: the tokenizer merges the end of a prompt with the start of its completion, so
            that the model would be trained on other ids than it is asked to continue.
    """
    if tokenizer.eos_token_id is None:
        raise PricerError("the tokenizer has no end-of-text token (eos_token), training needs one")
    prompt_ids = encode_prompts(tokenizer, prompts)
    both_ids = encode_prompts(
        tokenizer, [prompt + done for prompt, done in zip(prompts, completions, strict=True)]
    )
    completion_ids = []
    for place, (prompt, both) in enumerate(zip(prompt_ids, both_ids, strict=True)):
        if both[: len(prompt)] != prompt:
            raise PricerError(
                f"the tokenizer merges {PREFIX!r} with the price {completions[place]!r}: "
                "this base model cannot be used with these prompts"
            )
        completion_ids.append(both[len(prompt) :] + [tokenizer.eos_token_id])
    return completion_ids


def build_prompts(
    tokenizer: "Tokenizer", items: pd.DataFrame, *, cutoff: int, rounded: bool
) -> pd.DataFrame:
    """Turn items into the prompts table.

    Args:
        tokenizer: the base model's.
        items: with id, summary and price (USD).
        cutoff: tokens of the summary that are kept.
        rounded: whether completions are whole dollars.

    Returns:
        id, prompt, completion, price (USD), prompt_tokens and completion_tokens (special tokens
        included), truncated, summary_tokens (before the cut).
    """
    summaries, summary_tokens = cut_summaries(tokenizer, items["summary"].tolist(), cutoff)
    prompts = [build_prompt(summary) for summary in summaries]
    completions = [build_completion(price, rounded=rounded) for price in items["price"]]
    completion_ids = encode_completions(tokenizer, prompts, completions)
    return pd.DataFrame(
        {
            "id": items["id"],
            "prompt": prompts,
            "completion": completions,
            "price": items["price"],
            "prompt_tokens": [len(ids) for ids in encode_prompts(tokenizer, prompts)],
            "completion_tokens": [len(ids) for ids in completion_ids],
            "truncated": [tokens > cutoff for tokens in summary_tokens],
            "summary_tokens": summary_tokens,
        }
    )


def check_max_length(prompts: pd.DataFrame, *, cutoff: int, max_length: int) -> None:
    """Raise ItemsError if an example is longer than `max_length` tokens: none is cut silently."""
    tokens = prompts["prompt_tokens"] + prompts["completion_tokens"]
    too_long = int((tokens > max_length).sum())
    if too_long:
        longest = int(tokens.max())
        fitting = cutoff - (longest - max_length)
        cure = f"prompts.cutoff to {fitting} or " if fitting >= 1 else ""
        raise ItemsError(
            f"{too_long} of {len(prompts)} examples are longer than prompts.max_length "
            f"{max_length} (longest {longest} tokens with cutoff {cutoff}): "
            f"set {cure}prompts.max_length to {longest}"
        )


def token_statistics(prompts: pd.DataFrame) -> dict[str, Any]:
    """Return counts and token lengths over all splits, for `metrics/prompts.json`."""
    example_tokens = prompts["prompt_tokens"] + prompts["completion_tokens"]
    truncated = int(prompts["truncated"].sum())
    return {
        "n": len(prompts),
        "summary_tokens_mean": float(prompts["summary_tokens"].mean()),
        "summary_tokens_max": int(prompts["summary_tokens"].max()),
        "truncated": truncated,
        "truncated_share": truncated / len(prompts),
        "example_tokens_mean": float(example_tokens.mean()),
        "example_tokens_max": int(example_tokens.max()),
        # a text that states a price gives the answer away
        "prefix_in_summary": int(
            prompts["prompt"].str.removesuffix(PREFIX).str.contains(PREFIX, regex=False).sum()
        ),
    }


def _begin_ids(tokenizer: "Tokenizer") -> list[int]:
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and tokenizer("x")["input_ids"][0] == begin else []


def _batches(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]
