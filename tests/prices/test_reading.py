import functools
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pricer.errors import BaseModelError
from pricer.prices import reading
from pricer.prices.reading import read_prices
from pricer.prices.trie import (
    _build_trie,
    _ended,
    build_price_trie,
    price_paths,
)
from pricer.products.prompts import build_prompt, encode_prompts

# how numbers are split: one token a digit (SmolLM2, Qwen), up to three digits (Llama-3), up to two
DIGITS = {"one digit": r"\d", "three digits": r"\d{1,3}", "two digits": r"\d{1,2}"}
TEXTS = [f"What does this cost to the nearest dollar? Price is ${n}.00" for n in range(1000)]
SUMMARIES = [f"Title: Kettle {n}\nDetails: " + "steel, " * (n % 7) for n in range(32)]


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer that treats numbers as a family of models does."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    special = ["<|end|>", "<unk>"]
    trainer = {"special_tokens": special, "show_progress": False}
    if family == "sentencepiece":  # Llama-2: a piece for the space, a token a digit
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
        )
        bpe.decoder = decoders.Metaspace()
        trainer |= {"vocab_size": 400}
    else:
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(DIGITS[family]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        trainer |= {"vocab_size": 2500, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    bpe.train_from_iterator(TEXTS + SUMMARIES, trainers.BpeTrainer(**trainer))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")


FAMILIES = [*DIGITS, "sentencepiece"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A tokenizer, and a tiny Llama in float32 with logits far apart."""
    tokenizer = make_tokenizer(request.param)
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            attn_implementation="eager",
        )
    ).eval()
    return request.param, tokenizer, model


def batch(tokenizer, summaries, *, side="left"):
    ids = encode_prompts(tokenizer, [build_prompt(summary) for summary in summaries])
    longest = max(map(len, ids))
    input_ids = torch.zeros((len(ids), longest), dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    # "inside": after what all prompts begin with, as the predictor pads
    begin = {"left": 0, "right": longest, "inside": len(os.path.commonprefix(ids))}[side]
    for row, prompt in enumerate(ids):
        places = [
            place
            for place in range(longest)
            if place < min(begin, len(prompt)) or place >= longest - max(len(prompt) - begin, 0)
        ]
        input_ids[row, places] = torch.tensor(prompt)
        mask[row, places] = 1
    return input_ids, mask


@pytest.fixture(params=["the trie at once", "level by level"])
def way(request, monkeypatch):
    """Either way to score the deeper levels, whichever is cheaper for the batch."""
    monkeypatch.setattr(reading, "PASS_TOKENS", 0 if "level" in request.param else 10**9)


trie_of = functools.cache(build_price_trie)


def score(family, summaries, *, max_price=999, side="left", max_dropped_mass=0.0):
    _, tokenizer, model = family
    log_probs, dropped, _ = read_prices(
        model,
        trie_of(tokenizer, max_price),
        *batch(tokenizer, summaries, side=side),
        max_dropped_mass=max_dropped_mass,
    )
    return log_probs.numpy(), dropped.numpy()


@torch.inference_mode()
def brute_force(family, summary: str, max_price: int) -> np.ndarray:
    """Each value's tokens after the prompt, in a row of their own."""
    _, tokenizer, model = family
    [prompt] = encode_prompts(tokenizer, [build_prompt(summary)])
    paths = price_paths(tokenizer, max_price)
    longest = max(map(len, paths))
    ids = torch.tensor([prompt + path + [0] * (longest - len(path)) for path in paths])
    log_probs = model(ids).logits[:, len(prompt) - 1 : -1].double().log_softmax(-1)
    return np.array(
        [
            sum(log_probs[row, place, token].item() for place, token in enumerate(path))
            for row, path in enumerate(paths)
        ]
    )


@pytest.mark.parametrize("max_price", [999, 1999])
def test_the_distribution_is_brute_force_over_every_value(family, max_price, way):
    log_probs, dropped = score(family, SUMMARIES[:2], max_price=max_price)
    for row, summary in enumerate(SUMMARIES[:2]):
        expected = brute_force(family, summary, max_price)
        assert len(expected) == max_price + 1
        np.testing.assert_allclose(log_probs[row], expected, rtol=0, atol=1e-5)
    assert not dropped.any()
    assert (np.exp(log_probs).sum(axis=1) <= 1 + 1e-6).all()


def test_numbers_split_as_in_the_models_they_stand_for(family):
    name, tokenizer, _ = family
    depths = build_price_trie(tokenizer, 999).depths
    expected = {"three digits": 0, "two digits": 1, "one digit": 2, "sentencepiece": 2}
    assert depths.max() == expected[name]


@pytest.mark.parametrize("budget", [0.01, 0.2, 0.8])
def test_what_is_not_read_changes_no_more_than_it_holds(family, budget, way):
    exact, _ = score(family, SUMMARIES)
    pruned, dropped = score(family, SUMMARIES, max_dropped_mass=budget)
    assert (dropped <= budget + 1e-9).all()
    change = np.exp(pruned) - np.exp(exact)
    # no set of prices is off by more: neither all that gain together, nor all that lose
    for side in (1, -1):
        assert (np.maximum(side * change, 0).sum(axis=1) <= dropped + 1e-6).all()
    read = dropped == 0
    np.testing.assert_allclose(pruned[read], exact[read], rtol=0, atol=1e-4)
    if family[0] == "one digit":
        assert dropped.max() > 0
        # and far less, as nodes of one parent are alike
        assert np.abs(change).sum() < 0.5 * dropped.sum()


@pytest.mark.parametrize("budget", [0.0, 0.1])
def test_a_batch_of_mixed_lengths_equals_one_by_one(family, budget, way):
    together, dropped = score(family, SUMMARIES, max_dropped_mass=budget)
    for row, summary in enumerate(SUMMARIES):
        alone, alone_dropped = score(family, [summary], max_dropped_mass=budget)
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=1e-4)
        assert dropped[row] == pytest.approx(alone_dropped[0], abs=1e-6)


@pytest.mark.parametrize("side", ["right", "inside"])
@pytest.mark.parametrize("budget", [0.0, 0.1])
def test_the_side_of_the_padding_is_nothing(family, side, budget, way):
    left, _ = score(family, SUMMARIES[:8], max_dropped_mass=budget)
    other, _ = score(family, SUMMARIES[:8], side=side, max_dropped_mass=budget)
    np.testing.assert_allclose(left, other, rtol=0, atol=1e-4)


def test_what_prompts_begin_with_is_read_once(family, monkeypatch):
    _, tokenizer, model = family
    monkeypatch.setattr(reading, "PASS_TOKENS", 0)
    read = []
    hook = model.register_forward_hook(
        lambda _, inputs, kwargs, out: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    score(family, SUMMARIES[:8], side="inside")
    hook.remove()
    if build_price_trie(tokenizer, 999).depths.max():
        (one, shared), (eight, rest) = read[:2]
        assert (one, eight) == (1, 8) and shared >= 10
        assert shared + rest == batch(tokenizer, SUMMARIES[:8])[0].shape[1]


@pytest.mark.parametrize("budget", [0.0, 0.1])
def test_both_ways_say_the_same_and_each_is_taken_where_it_is_cheaper(family, budget, monkeypatch):
    name, tokenizer, model = family
    deepest = build_price_trie(tokenizer, 999).depths.max()
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    alone, alone_dropped = score(family, SUMMARIES[:1], max_dropped_mass=budget)
    assert len(passes) == 1
    score(family, SUMMARIES, max_dropped_mass=budget)
    assert len(passes) == 1 + 1 + deepest
    monkeypatch.setattr(reading, "PASS_TOKENS", 0)
    levels, levels_dropped = score(family, SUMMARIES[:1], max_dropped_mass=budget)
    hook.remove()
    np.testing.assert_allclose(levels, alone, rtol=0, atol=1e-4)
    np.testing.assert_allclose(levels_dropped, alone_dropped, rtol=0, atol=1e-6)


@given(
    st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), min_size=1, unique=True
    )
)
def test_every_value_is_reached_and_no_path_begins_another(drawn):
    prefix_free = [
        list(path)
        for path in drawn
        if not any(other[: len(path)] == path for other in drawn if other != path)
    ]
    check_every_value_is_reached(prefix_free)


def check_every_value_is_reached(paths):
    """Each value's tokens lead along edges to an edge of its own, and no further."""
    trie = _build_trie(paths)
    for path, edge in zip(paths, trie.value_edges, strict=True):
        node = 0
        for token in path:
            [step] = [
                e for e in trie.node_children[node] if e >= 0 and trie.edge_tokens[e] == token
            ]
            below = np.flatnonzero(trie.node_edges == step)
            node = below[0] if len(below) else None
        assert step == edge and node is None  # the path ends there
    assert len(set(trie.value_edges)) == len(paths)


@given(st.sets(st.integers(10, 1300).map(str), max_size=40), st.sampled_from([9, 99, 300, 1300]))
def test_no_number_begins_another_once_ended_whatever_digits_a_vocabulary_merges(merged, max_price):
    pieces = {*"0123456789"} | merged
    end = 0

    def tokens(number: str) -> list[int]:
        if not number:
            return []
        longest = next(n for n in range(4, 0, -1) if number[:n] in pieces and len(number) >= n)
        return [int(f"1{number[:longest]}"), *tokens(number[longest:])]

    paths = [tokens(str(value)) for value in range(max_price + 1)]
    ended = _ended(paths, [[end]] * len(paths))
    assert all(one in (path, [*path, end]) for one, path in zip(ended, paths, strict=True))
    whole = {tuple(path) for path in ended}
    assert not any(path[:length] in whole for path in whole for length in range(1, len(path)))
    check_every_value_is_reached(ended)


def test_a_tokenizer_that_merges_the_prefix_with_the_number_is_refused():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.train_from_iterator(
        ["Price is $219.00"] * 50,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    with pytest.raises(BaseModelError, match="merges 'Price is \\$' with the number"):
        build_price_trie(tokenizer, 999)
