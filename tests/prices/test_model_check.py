"""docs/models.md has these kinds; models are tiny and random, so that attention matters."""

import re
from pathlib import Path

import pytest

from pricer.errors import BaseModelError
from pricer.model.attention import KINDS
from pricer.model.folder import check_quantized, check_window
from pricer.prices import model_check
from pricer.prices.model_check import check_scores
from tests.quantization import quantization
from tests.tiny_models import tiny_model

EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
WORK = {
    **{kind: {} for kind in KINDS},
    **{kind: {} for kind in ("cohere", "gemma2", "gpt2", "gpt_neox", "opt", "phi", "starcoder2")},
    "gemma3_text": {"sliding_window": 512},
    "gpt_oss": EXPERTS | {"sliding_window": 128},
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "qwen3_moe": EXPERTS,
}
REFUSED = {
    "bloom": {},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "mamba": {},
    "mpt": {},
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR | EXPERTS,
}


def make(kind: str, tokenizer, **settings):
    model = tiny_model(kind, len(tokenizer), **settings)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # at the usual scale, attention sees all tokens alike
            parameter.data.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
    return model


@pytest.mark.parametrize("kind", WORK)
def test_prices_read_from_these_kinds_are_their_own(tokenizer, monkeypatch, kind):
    model = make(kind, tokenizer, **WORK[kind])
    monkeypatch.setattr(model_check, "KINDS", ())
    monkeypatch.setattr(model_check, "TOLERANCE", 1e-4)
    check_scores(model, tokenizer, "here")


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_in_one_line(tokenizer, kind):
    model = make(kind, tokenizer, **REFUSED[kind])
    says = "are not its own, by a factor of" if kind == "mpt" else "prices cannot be read"
    with pytest.raises(BaseModelError, match=f"^here: prices .*of kind {kind}") as error:
        check_scores(model, tokenizer, "here")
    assert says in str(error.value) and "gemma, granite, llama" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_page_has_each_kind():
    page = Path("docs/models.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9_]+)` \| (works|refused)", page, flags=re.MULTILINE))
    assert {kind for kind, said in rows.items() if said == "works"} == set(WORK)
    assert {kind for kind, said in rows.items() if said == "refused"} == set(REFUSED)


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({}, True),
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 150}, False),
        ({"sliding_window": 150, "use_sliding_window": False}, True),
        ({"sliding_window": 150, "layer_types": ["full_attention"]}, True),
        ({"sliding_window": 150, "layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"attention_chunk_size": 150, "layer_types": ["chunked_attention"]}, False),
        ({"text_config": {"sliding_window": 150}}, False),
    ],
)
def test_prompts_fit_into_the_window_of_every_layer(config, fits):
    check_window(config, 80, "here")
    if fits:
        check_window(config, 100, "here")
    else:
        with pytest.raises(BaseModelError, match="here: some layers see 150 tokens alone"):
            check_window(config, 100, "here")


def test_a_model_that_is_quantized_already_must_be_so_as_the_params_say():
    four = quantization(4)
    stored = {"quant_method": "bitsandbytes", **four.model_dump(), "bnb_4bit_compute_dtype": "x"}
    check_quantized({}, four, "here")
    check_quantized({"quantization_config": stored}, four, "here")
    for other in ({"load_in_4bit": False}, {"quant_method": "gptq"}):
        with pytest.raises(BaseModelError, match="here: is quantized already"):
            check_quantized({"quantization_config": stored | other}, four, "here")
    with pytest.raises(BaseModelError, match="here: is quantized already"):
        check_quantized({"quantization_config": stored}, quantization(16), "here")
