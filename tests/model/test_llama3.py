"""The real Llama-3 vocabulary, which travels in a PyPI wheel: `make test-llama3` fetches it."""

import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from pricer.export.gguf_file import write_gguf
from pricer.export.llama_cpp import check_tokens, llama_server, read_distributions
from pricer.model.base import load_tokenizer
from pricer.model.sources import download_wheel
from pricer.params import MIN_NEIGHBOR, MIN_NEIGHBORS, MIN_WORDS
from pricer.prices.reading import read_prices
from pricer.prices.trie import build_price_trie, price_paths
from pricer.products.prompts import (
    build_prompt,
    build_prompts,
    check_max_length,
    cut_summaries,
    encode_completions,
    encode_prompts,
    evidence_line,
    prompt_lengths,
    token_statistics,
)

pytestmark = pytest.mark.llama3

SHA256 = "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f"
DEAR = evidence_line([999, 999, 999], 999)
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SPECIAL = {"id": "<|begin_of_text|>", "ids": [128_000], "tokens": ["<|begin_of_text|>"]}
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama3")
    wheel = download_wheel("llama-models", "0.3.0", SHA256, folder)
    with zipfile.ZipFile(wheel) as archive:
        vocabulary = archive.extract("llama_models/llama3/tokenizer.model", folder)
    converter = TikTokenConverter(vocabulary, extra_special_tokens=[BEGIN, END])
    return PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), bos_token=BEGIN, eos_token=END, pad_token=END
    )


def test_every_price_is_one_token(llama3):
    assert len(llama3) == 128_002
    assert all(len(path) == 1 for path in price_paths(llama3, 999))
    assert build_price_trie(llama3, 999).depths.tolist() == [0]


def test_prices_above_share_their_first_token(llama3):
    paths = price_paths(llama3, 1299)
    assert [llama3.decode([token]) for token in paths[1299]] == ["129", "9"]
    assert [llama3.decode([token]) for token in paths[129]] == ["129", "."]
    assert len(paths[219]) == 1


def test_the_distribution_is_one_softmax(llama3):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(llama3),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.3,
        )
    ).eval()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    [ids] = encode_prompts(llama3, [build_prompt("Title: Kettle")])
    input_ids = torch.tensor([ids])
    log_probs, dropped, _ = read_prices(
        model, build_price_trie(llama3, 999), input_ids, input_ids**0, max_dropped_mass=0.02
    )
    assert len(passes) == 1 and not dropped.any()
    with torch.inference_mode():
        expected = model(input_ids).logits[0, -1].log_softmax(-1)
    tokens = [path[0] for path in price_paths(llama3, 999)]
    np.testing.assert_allclose(log_probs[0].numpy(), expected[tokens].numpy(), atol=1e-5)


def test_the_prompt_contract(llama3, items):
    prompt = build_prompt("Title: Kettle")
    [ids] = encode_completions(llama3, [prompt], ["219.00"])
    assert [llama3.decode([token]) for token in ids] == ["219", ".", "00", END]
    table = build_prompts(llama3, items, cutoff=110, rounded=True)
    check_max_length(table, cutoff=110, max_length=128)
    statistics = token_statistics(table)
    assert statistics["n"] == len(items) and statistics["example_tokens_max"] <= 128
    assert (table["completion_tokens"] == 4).all()


@given(st.text(st.sampled_from("ab 1.,$()%\n\t'-é掃🧹"), max_size=40).map(str.strip).filter(bool))
@settings(max_examples=1000)
def test_a_prompts_length_follows_from_its_summarys(llama3, summary):
    """Here punctuation at the end of a summary takes the line breaks after it."""
    _, tokens = cut_summaries(llama3, [summary], 100)
    [ids] = encode_prompts(llama3, [build_prompt(summary)])
    assert prompt_lengths(llama3, [summary], tokens, [""]) == [len(ids)]
    [ids] = encode_prompts(llama3, [build_prompt(summary, DEAR)])
    assert prompt_lengths(llama3, [summary], tokens, [DEAR]) == [len(ids)]


def test_evidence_takes_what_params_are_checked_for_and_fits_the_presets(llama3, items):
    alone, dear, cheap = (
        build_prompts(llama3, items, [line] * len(items), cutoff=110, rounded=True)
        for line in ("", DEAR, evidence_line([1, 1, 1], 1))
    )
    room = MIN_NEIGHBORS + 3 * MIN_NEIGHBOR + MIN_WORDS
    for table in (dear, cheap):
        assert set(table["prompt_tokens"] - alone["prompt_tokens"]) == {room}
    check_max_length(dear, cutoff=110, max_length=152)
    summary = " kettle" * 110
    [ids] = encode_prompts(llama3, [build_prompt(summary.strip(), DEAR)])
    # the begin-of-text token, "999", ".", "00" and the end-of-text token
    assert len(ids) + 1 + 4 <= 152


def test_a_gguf_file_of_it_gives_llama_cpp_the_same_tokens_and_prices(llama3, items, tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(llama3) + 254,  # as Llama 3 has more rows than its text needs
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.3,
            tie_word_embeddings=True,
            max_position_embeddings=131_072,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        )
    ).eval()
    model.save_pretrained(tmp_path / "model")
    llama3.save_pretrained(tmp_path / "model")
    file = tmp_path / "model/tokenizer.json"  # as the model's own begins each text
    begin = {"type": "TemplateProcessing", "special_tokens": {BEGIN: SPECIAL}}
    begin["single"] = [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, TEXT]
    begin["pair"] = [TEXT, {"Sequence": {"id": "B", "type_id": 1}}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": begin}))
    write_gguf(tmp_path / "model", tmp_path / "model.f16.gguf", "f16")
    tokenizer = load_tokenizer(tmp_path / "model")
    summaries = items["summary"].head(20).tolist()
    prompts = [
        build_prompt(text) for text in [*summaries, "It'S 12,345.67%\n\n\n  caf\u00e9\t掃🧹"]
    ]
    trie = build_price_trie(tokenizer, 999)
    with llama_server(tmp_path / "model.f16.gguf", tokens=400) as client:
        check_tokens(client, tokenizer, prompts)
        found = read_distributions(client, tokenizer, trie, prompts[:2])
    tokens = [path[0] for path in price_paths(tokenizer, 999)]
    for row, ids in enumerate(encode_prompts(tokenizer, prompts[:2])):
        assert ids[0] == tokenizer.bos_token_id
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[tokens].numpy()
        assert abs(found.probabilities[row] - wanted / wanted.sum()).sum() / 2 < 0.02
