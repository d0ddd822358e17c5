"""Items to prompts and completions, and these to token ids, one way for every use."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pricer.errors import ItemsError, PricerError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase as Tokenizer

QUESTION = "What does this cost to the nearest dollar?"
PREFIX = "Price is $"

# of the prompts table
COLUMNS = ["id", "prompt", "completion", "price"]
COLUMNS += ["prompt_tokens", "completion_tokens", "truncated"]
# what the statistics of all examples are taken from
COUNTS = ["summary_tokens", "prompt_tokens", "completion_tokens", "truncated", "prefix_in_summary"]

# of a description for each token of the cutoff; no token of a tokenizer in use has half as many
# (Llama-3's longest are 128 spaces), so what is beyond is never kept, and no word takes minutes
CHARACTERS_A_TOKEN = 256

Place = tuple[str, str, str]  # what stands before a word, the word, what stands after it

BATCH = 128  # texts tokenized at once: all threads have work, what they make fits their caches


def build_prompt(summary: str, evidence: str = "") -> str:
    r"""Return question, summary, evidence where there is any, and the prefix a price continues.

    >>> build_prompt("Kettle, 1.7 litres")
    'What does this cost to the nearest dollar?\n\nKettle, 1.7 litres\n\nPrice is $'
    """
    return f"{QUESTION}\n\n{summary}" + build_ending(evidence)


def build_ending(evidence: str = "") -> str:
    """Return what follows a summary in its prompt."""
    return (f"\n\n{evidence}" if evidence else "") + f"\n\n{PREFIX}"


def evidence_line(neighbor_prices: Sequence[float], words_estimate: float | None) -> str:
    """Return what a prompt says of similar products and of its words, USD; "" of neither.

    >>> evidence_line([111.49, 82.0], 121.6)
    'Similar products cost $111, $82. Its words suggest $122.'
    """
    told = []
    if neighbor_prices:
        prices = ", ".join(f"${round(price)}" for price in neighbor_prices)
        told.append(f"Similar products cost {prices}.")
    if words_estimate is not None:
        told.append(f"Its words suggest ${round(words_estimate)}.")
    return " ".join(told)


_EVIDENCE = re.compile(
    r"\n\n(?=[SI])(?:Similar products cost \$\d+(?:, \$\d+)*\.)? ?(?:Its words suggest \$\d+\.)?$"
)


def parse_prompt(prompt: str) -> str:
    """Return the summary in a prompt of `build_prompt`'s form, whatever it asks; "" in another.

    What the prompt says of similar products is no part of it.
    """
    question, _, rest = prompt.partition("\n\n")
    summary, _, prefix = rest.rpartition("\n\n")
    return _EVIDENCE.sub("", summary) if question and prefix.strip() == PREFIX else ""


def build_completion(price: float, *, rounded: bool) -> str:
    """Return the text of a price in USD: "219.00" when rounded to the dollar, else "218.90"."""
    return f"{round(price)}.00" if rounded else f"{price:.2f}"


def cut_summaries(
    tokenizer: "Tokenizer", summaries: list[str], cutoff: int
) -> tuple[list[str], list[int]]:
    """Cut each summary after `cutoff` tokens, never inside a character.

    Returns:
        The summaries, each a prefix of the one given, and how many tokens each had before, in its
        first CHARACTERS_A_TOKEN x cutoff characters.
    """
    summaries = [summary[: CHARACTERS_A_TOKEN * cutoff] for summary in summaries]
    tokens = [len(encoding) for encoding in _encode(tokenizer, summaries)]
    texts = list(summaries)
    long = [place for place, count in enumerate(tokens) if count > cutoff]
    encodings = _encode(tokenizer, [summaries[place] for place in long], places=True)
    for place, encoding in zip(long, encodings, strict=True):
        (_, end), (following, _) = encoding.offsets[cutoff - 1 : cutoff + 1]
        # a character of several tokens is dropped when not all of them fit
        texts[place] = summaries[place][: min(end, following)]
    return texts, tokens


def encode_prompts(tokenizer: "Tokenizer", prompts: list[str]) -> list[list[int]]:
    """Return the token ids of each prompt, as training and prediction both see them.

    They begin with the begin-of-text token where the tokenizer adds one, and end with the prefix.
    """
    begin = _begin_ids(tokenizer)
    return [begin + encoding.ids for encoding in _encode(tokenizer, prompts)]


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


def prompt_lengths(
    tokenizer: "Tokenizer", summaries: list[str], summary_tokens: list[int], evidence: list[str]
) -> list[int]:
    """Return how many tokens each prompt has, from how many its summary has by itself.

    What stands around a summary changes how its first and its last word are split into tokens,
    and no others: these words are few, the summaries many.

    Args:
        tokenizer: the base model's.
        summaries: without spaces around them, not empty.
        summary_tokens: of each.
        evidence: of each, "" where there is none.
    """
    head = build_prompt("\0").partition("\0")[0]
    first = [(head, (summary.split(None, 1) or [""])[0], "") for summary in summaries]
    last = [
        ("", _last_word(summary), build_ending(line))
        for summary, line in zip(summaries, evidence, strict=True)
    ]
    before, after = _added(tokenizer, first), _added(tokenizer, last)
    begin = len(_begin_ids(tokenizer))
    return [
        begin + before[one] + tokens + after[other]
        for one, tokens, other in zip(first, summary_tokens, last, strict=True)
    ]


def _last_word(text: str) -> str:
    """Return the last word with the spaces before it, which tokenizers take for its own."""
    before = text[: -len((text.rsplit(None, 1) or [""])[-1])]
    return text[len(before.rstrip()) :]


def _added(tokenizer: "Tokenizer", places: list[Place]) -> dict[Place, int]:
    """Return by how many tokens what stands around a word, head and tail, lengthens it."""
    distinct = list(dict.fromkeys(places))
    alone = _encode(tokenizer, [word for _, word, _ in distinct])
    within = _encode(tokenizer, ["".join(place) for place in distinct])
    return {
        place: len(longer) - len(ids)
        for place, longer, ids in zip(distinct, within, alone, strict=True)
    }


def build_prompts(
    tokenizer: "Tokenizer",
    items: pd.DataFrame,
    evidence: list[str] | None = None,
    *,
    cutoff: int,
    rounded: bool,
    exact: bool = False,
) -> pd.DataFrame:
    """Turn items into the prompts table.

    Args:
        tokenizer: the base model's.
        items: with id, summary and price (USD).
        evidence: what is told of each beside its summary, "" for nothing; None: nothing of any.
        cutoff: tokens of the summary that are kept.
        rounded: whether completions are whole dollars, else dollars and cents.
        exact: whether they are prices as they are, as the reference recipe has them of test items.

    Returns:
        COLUMNS and COUNTS: id, prompt, completion, price (USD), prompt_tokens and
        completion_tokens (special tokens included), truncated, summary_tokens (before the cut),
        prefix_in_summary.

    Raises:
        PricerError: the tokenizer merges the end of a prompt with the start of a completion.
    """
    evidence = evidence or [""] * len(items)
    summaries, summary_tokens = cut_summaries(tokenizer, items["summary"].tolist(), cutoff)
    truncated = [tokens > cutoff for tokens in summary_tokens]
    prompts = [build_prompt(*told) for told in zip(summaries, evidence, strict=True)]
    prompt_tokens = prompt_lengths(tokenizer, summaries, summary_tokens, evidence)
    # what is left of a summary may be split otherwise than it was within all of it
    cut = [place for place, is_cut in enumerate(truncated) if is_cut]
    for place, ids in zip(cut, encode_prompts(tokenizer, [prompts[p] for p in cut]), strict=True):
        prompt_tokens[place] = len(ids)
    completions = [
        str(price) if exact else build_completion(price, rounded=rounded)
        for price in items["price"]
    ]
    # few prices are distinct, and every prompt ends with the same words
    distinct = list(dict.fromkeys(completions))
    completion_ids = encode_completions(tokenizer, [PREFIX] * len(distinct), distinct)
    completion_tokens = dict(zip(distinct, map(len, completion_ids), strict=True))
    return pd.DataFrame(
        {
            "id": items["id"],
            "prompt": prompts,
            "completion": completions,
            "price": items["price"],
            "prompt_tokens": prompt_tokens,
            "completion_tokens": [completion_tokens[completion] for completion in completions],
            "truncated": truncated,
            "summary_tokens": summary_tokens,
            # a text that states a price gives the answer away
            "prefix_in_summary": [PREFIX in summary for summary in summaries],
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


def told_of_cuts(prompts: pd.DataFrame) -> str:
    """Return the cutoff that leaves most summaries whole, in words, where most are cut; else ""."""
    if prompts["truncated"].mean() <= 0.5:
        return ""
    enough = prompts["summary_tokens"].quantile(0.9, interpolation="higher")
    return f" (nine of ten are whole with {enough})"


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
        "prefix_in_summary": int(prompts["prefix_in_summary"].sum()),
    }


def _begin_ids(tokenizer: "Tokenizer") -> list[int]:
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and tokenizer("x")["input_ids"][0] == begin else []


def _encode(
    tokenizer: "Tokenizer", texts: list[str], *, places: bool = False
) -> Iterator["Encoding"]:
    """Yield each text's encoding without special tokens, from the library under the tokenizer.

    It takes all threads, and makes lists of ids only where they are asked for.

    Args:
        tokenizer: the base model's.
        texts: any number; few encodings are in memory at once.
        places: whether the encodings know where in the text a token is, which takes longer.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    encode = backend.encode_batch if places else backend.encode_batch_fast
    for start in range(0, len(texts), BATCH):
        yield from encode(texts[start : start + BATCH], add_special_tokens=False)
