"""GGUF files as llama.cpp reads them: the same tokens, the same probabilities as the folder's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pricer.errors import BaseModelError, PricerError
from pricer.export.gguf_file import LLAMA3_SPLIT, check_convertible, write_gguf
from pricer.export.llama_cpp import (
    check_tokens,
    greedy_text,
    llama_server,
    next_tokens,
    read_distributions,
)
from pricer.model.base import load_tokenizer
from pricer.prices.trie import build_price_trie
from pricer.products.prompts import build_prompt, encode_prompts
from tests.tiny_models import tiny_model

TEXTS = [
    "Steel kettle, 1.7 litres, 2200W",
    "It's 12,345.67% off \u2014 they'LL say\n\n\n  so...\t42",
    "Caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600 100\u20ac   end ",
    "<|end|> is no end when it is said",
]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def a_model(folder: Path, base_model_dir: Path, kind: str, **settings) -> Path:
    """A tiny model of some kind, with the tokenizer of the tests."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base_model_dir / name, folder)
    size = len(load_tokenizer(base_model_dir).get_vocab()) + 8  # rows without a token
    model = tiny_model(kind, size, **settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3).add_(0.01 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def by_transformers(folder: Path, prompts: list[str]) -> np.ndarray:
    """What transformers computes: the probability of each token after each prompt."""
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return np.stack(
            [
                model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1).numpy()
                for ids in encode_prompts(tokenizer, prompts)
            ]
        )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "num_key_value_heads": 4}),
        ("llama", {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    ],
    ids=str,
)
def test_llama_cpp_computes_what_the_folder_says(base_model_dir, tmp_path, kind, settings):
    folder = a_model(tmp_path / "model", base_model_dir, kind, **settings)
    tokenizer = load_tokenizer(folder)
    prompts = [build_prompt(text) for text in TEXTS]
    write_gguf(folder, tmp_path / "model.f16.gguf", "f16")
    wanted = by_transformers(folder, prompts)
    every = np.arange(wanted.shape[1])
    with llama_server(tmp_path / "model.f16.gguf", tokens=400) as client:
        check_tokens(client, tokenizer, prompts)
        for ids, expected in zip(encode_prompts(tokenizer, prompts), wanted, strict=True):
            found = next_tokens(client, ids, every)
            assert np.abs(found - expected).sum() / 2 < 0.01


def test_types_differ_in_size_and_hardly_in_what_is_said(base_model_dir, tmp_path):
    sizes, said = {}, {}
    tokenizer = load_tokenizer(base_model_dir)
    prompts = [build_prompt(text) for text in TEXTS[:2]]
    trie = build_price_trie(tokenizer, 999)
    for kind in ("f16", "q8_0", "q4_0"):
        file = tmp_path / f"{kind}.gguf"
        write_gguf(base_model_dir, file, kind)
        sizes[kind] = file.stat().st_size
        with llama_server(file, tokens=400) as client:
            said[kind] = read_distributions(client, tokenizer, trie, prompts).probabilities
            assert greedy_text(client, prompts[0], max_new_tokens=4)
    assert sizes["f16"] > sizes["q8_0"] > sizes["q4_0"]
    off = {kind: np.abs(said[kind] - said["f16"]).sum(axis=1).max() / 2 for kind in said}
    assert off["q8_0"] < 0.02 and off["q4_0"] < 0.1


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = BYTES | {"use_regex": True}


def split(pattern: str) -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def with_split(folder: Path, pre_tokenizer: dict) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pre_tokenizer": pre_tokenizer}))


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        WORDS,
        {"type": "Sequence", "pretokenizers": [split(LLAMA3_SPLIT), BYTES]},
        {
            "type": "Sequence",
            "pretokenizers": [split(LLAMA3_SPLIT.replace("{1,3}", "")), BYTES],
        },
    ],
    ids=["gpt-2", "llama-bpe", "qwen2"],
)
def test_text_is_split_as_the_tokenizer_splits_it(base_model_dir, tmp_path, pre_tokenizer):
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    with_split(folder, pre_tokenizer)
    tokenizer = load_tokenizer(folder)
    write_gguf(folder, tmp_path / "model.f16.gguf", "f16")
    with llama_server(tmp_path / "model.f16.gguf", tokens=400) as client:
        check_tokens(client, tokenizer, [build_prompt(text) for text in TEXTS[:3]])


def test_other_tokens_are_told(base_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    write_gguf(folder, tmp_path / "model.f16.gguf", "f16")
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    described["model"]["merges"] = []  # of the letters alone
    file.write_text(json.dumps(described))
    with llama_server(tmp_path / "model.f16.gguf", tokens=400) as client:
        with pytest.raises(PricerError, match="other tokens of 'What does .* another prompt"):
            check_tokens(client, load_tokenizer(folder), [build_prompt("a kettle")])


def edit(folder: Path, name: str, **values) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("config.json", {"model_type": "gpt2"}, "type 'gpt2' cannot be written as GGUF here"),
        ("config.json", {"rope_parameters": {"rope_type": "yarn"}}, "positions of type 'yarn'"),
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "only byte-level BPE tokenizers"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "changes text first"),
        (
            "tokenizer.json",
            {"pre_tokenizer": {"type": "Whitespace"}},
            "splits text in a way that GGUF has no name for",
        ),
    ],
)
def test_what_has_no_gguf_is_told_before_anything_is_made(
    base_model_dir, tmp_path, name, values, says
):
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    edit(folder, name, **values)
    with pytest.raises(BaseModelError, match=says):
        check_convertible(folder)


def test_a_file_that_llama_cpp_cannot_load_is_told(tmp_path):
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(PricerError, match="damaged.gguf: llama.cpp cannot load it"):
        with llama_server(tmp_path / "damaged.gguf", tokens=16):
            raise AssertionError("served")


def test_tokens_beyond_the_models_rows_are_left_out_and_accents_composed(base_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(base_model_dir, folder)
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}
    more = described["added_tokens"][0] | {"id": 5000, "content": "<|more|>"}
    file.write_text(json.dumps(described | {"added_tokens": [*described["added_tokens"], more]}))
    check_convertible(folder)
    write_gguf(folder, tmp_path / "model.f16.gguf", "f16")
    with llama_server(tmp_path / "model.f16.gguf", tokens=400) as client:
        check_tokens(client, load_tokenizer(folder), [build_prompt("cafe\u0301 au lait")])
