"""Prices as llama.cpp gives them: a GGUF file served in another process, asked token by token."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from pricer.errors import PricerError, quoted
from pricer.prices.distribution import PriceDistributions
from pricer.prices.trie import PriceTrie
from pricer.products.prompts import encode_prompts

SERVER = Path(__file__).with_name("llama_server.py")
PROMPT_ROOM = 64  # tokens beside the longest prompt
UNREAD = 2e-4  # a node of less probability is not read: its values share it
LISTED = 4  # times as many tokens are listed by probability as prices go on with
EVERY = 1_000_000  # no vocabulary is larger
TIMEOUT_S = 120


def check_llama_cpp() -> None:
    """Raise PricerError unless llama.cpp is installed, which judges a GGUF file by running it."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise PricerError(
            "a GGUF file is judged by running it, and llama.cpp is not installed: "
            "`pip install 'pricer[gguf]'`, or --no-judge"
        )


@contextmanager
def llama_server(file: Path, *, tokens: int, slots: int = 1) -> Iterator[httpx2.Client]:
    """Serve a GGUF file in a process of its own, and yield a client of it.

    Args:
        file: the GGUF file.
        tokens: of the longest prompt.
        slots: requests that are computed at once.

    Raises:
        PricerError: llama.cpp cannot load the file.
    """
    command = [sys.executable, "-I", str(SERVER), str(file), str(slots)]
    told = os.environ.get("OMP_NUM_THREADS", "")  # whoever limits PyTorch so means this too
    threads = told if told.isdecimal() else str(os.cpu_count() or 1)
    command += [threads, str(tokens + PROMPT_ROOM)]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,  # a pipe would fill up
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout
        try:
            lines = map(str.strip, process.stdout)  # the library may say something first
            address = next((line for line in lines if line.startswith("http")), None)
            if address is None:
                log.seek(0)
                raise PricerError(f"{file}: llama.cpp cannot load it ({_reason(log.read())})")
            with httpx2.Client(base_url=address, timeout=TIMEOUT_S, trust_env=False) as client:
                yield client
        finally:
            process.kill()


def _reason(log: str) -> str:
    """Return what llama.cpp gives as the reason, the first of its errors, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in lines if " E " in line or "error" in line.lower()), lines[-1])


def check_tokens(
    client: httpx2.Client, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> None:
    """Raise PricerError if llama.cpp makes other tokens of a prompt: it would be another prompt.

    Where the tokenizer composes letters and accents first (NFC, as Qwen's does), llama.cpp leaves
    that to who asks it: prompts are compared as composed ones.
    """
    if "NFC" in str(tokenizer.backend_tokenizer.normalizer):
        prompts = [unicodedata.normalize("NFC", prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encode_prompts(tokenizer, prompts), strict=True):
        said = _ask(client, "/tokenize", {"content": prompt, "add_special": True})["tokens"]
        if said != ids:
            raise PricerError(
                f"llama.cpp makes {len(said)} other tokens of {quoted(prompt)} where the base "
                f"model's tokenizer makes {len(ids)}: the file would be asked another prompt"
            )


def greedy_text(client: httpx2.Client, prompt: str, *, max_new_tokens: int) -> str:
    """Return what follows a prompt, the likeliest token each time."""
    asked = {"prompt": prompt, "n_predict": max_new_tokens, "temperature": 0, "seed": 0}
    return str(_ask(client, "/completion", asked)["content"])


def read_distributions(
    client: httpx2.Client,
    tokenizer: PreTrainedTokenizerBase,
    trie: PriceTrie,
    prompts: list[str],
) -> PriceDistributions:
    """Return the distribution over the price of each prompt, as `Predictor.distributions` does.

    Each node of the trie is a request, whose prompt is in llama.cpp's cache but for its last token.
    """
    values = len(trie.value_edges)
    found = PriceDistributions(
        np.zeros((len(prompts), values)), np.zeros(len(prompts)), np.zeros(len(prompts)), [], 1
    )
    for row, ids in enumerate(encode_prompts(tokenizer, prompts)):
        edges, unread = _read_trie(client, trie, ids)
        mass = edges[trie.value_edges]
        found.price_mass[row] = mass.sum()
        found.dropped_mass[row] = unread
        found.probabilities[row] = mass / mass.sum()
    return found


def _read_trie(
    client: httpx2.Client, trie: PriceTrie, prompt: list[int]
) -> tuple[NDArray[np.float64], float]:
    """Return the probability of each edge after a prompt, and of what was shared out unread."""
    edges = np.zeros(len(trie.edge_tokens))
    unread = 0.0
    for node, children in enumerate(trie.node_children):
        children = children[children >= 0]
        above = edges[trie.node_edges[node]] if node else 1.0
        if above < UNREAD:
            edges[children] = above / len(children)
            unread += above
            continue
        path = [*trie.ancestors[node], node] if node else []
        after = [*prompt, *(int(trie.node_tokens[one]) for one in path)]
        edges[children] = above * next_tokens(client, after, trie.edge_tokens[children])
    return edges, unread


def next_tokens(
    client: httpx2.Client, prompt: list[int], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the probability that each of some tokens comes next after a prompt's tokens.

    The likeliest tokens are listed; all of them where others might matter.
    """
    for count in (LISTED * len(wanted), EVERY):
        asked = {
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": count,
            "temperature": 0,
            "cache_prompt": True,
            # probabilities are listed as they are before it: nothing would be with a token that
            # ends the text, or is a part of a character
            "logit_bias": [[int(wanted[0]), 1000.0]],
        }
        [said] = _ask(client, "/completion", asked)["completion_probabilities"]
        listed = {one["id"]: math.exp(one["logprob"]) for one in said["top_logprobs"]}
        if sum(listed.values()) > 1 - UNREAD or listed.keys() >= set(wanted.tolist()):
            break
    return np.array([listed.get(token, 0.0) for token in wanted.tolist()])


def _ask(client: httpx2.Client, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = client.post(path, json=asked)
        answer.raise_for_status()
        return dict(answer.json())
    except (httpx2.HTTPError, json.JSONDecodeError) as error:
        raise PricerError(f"llama.cpp does not answer ({error})") from None
