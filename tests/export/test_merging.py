"""Merged weights compute what the adapter on the quantized base did, and on other weights not."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pricer.errors import BaseModelError, PricerError
from pricer.export.merging import merge, save_merged
from pricer.model.adapters import load_adapter
from pricer.model.base import load_base_model
from pricer.prices.record import ServingRecord
from tests.quantization import quantization

TOKENS = torch.tensor([[5, 9, 31, 77, 200, 4, 18]])


def an_adapter(base: Path, folder: Path, bits: int = 16, **settings) -> Path:
    """An adapter that moves logits far."""
    torch.manual_seed(1)
    model = get_peft_model(
        load(base, bits), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    )
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def load(base: Path, bits: int):
    return load_base_model(
        base, device=torch.device("cpu"), dtype=torch.float32, quantization=quantization(bits)
    )


def log_probs(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits.float().log_softmax(-1)


@pytest.fixture
def record():
    return ServingRecord(dtype="float32", quantization=quantization(4))


@pytest.mark.parametrize(
    ("bits", "settings"),
    [
        (4, {}),
        (4, {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}),
        (4, {"use_dora": True}),
        (8, {}),
        (16, {"target_modules": "all-linear"}),
    ],
    ids=str,
)
def test_a_merge_is_the_adapter_on_the_very_weights(
    base_model_dir, tokenizer, tmp_path, record, bits, settings
):
    adapter = an_adapter(base_model_dir, tmp_path / "adapter", **settings)
    record = record.model_copy(update={"quantization": quantization(bits)})
    wanted = log_probs(load_adapter(load(base_model_dir, bits), adapter, torch.float32))
    merged = merge(base_model_dir, adapter, record, onto="trained", dtype=torch.float32)
    folder = tmp_path / "merged"
    folder.mkdir()
    save_merged(merged, tokenizer, base_model_dir, folder, max_new_tokens=8)
    found = log_probs(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    # int8 rounds its inputs too when it computes
    assert torch.allclose(found, wanted, atol=1e-3 if bits != 8 else 0.15)
    plain = log_probs(load(base_model_dir, bits))
    assert (plain - wanted).abs().max() > 1
    original = merge(base_model_dir, adapter, record, onto="original", dtype=torch.float32)
    off = (log_probs(original) - wanted).abs().max()
    assert off > 0.02 if bits == 4 else off < 0.15


def test_a_merged_folder_is_whole_greedy_and_not_quantized(
    base_model_dir, tokenizer, tmp_path, record
):
    adapter = an_adapter(base_model_dir, tmp_path / "adapter")
    model = merge(base_model_dir, adapter, record, onto="trained", dtype=torch.bfloat16)
    folder = tmp_path / "merged"
    folder.mkdir()
    save_merged(model, tokenizer, base_model_dir, folder, max_new_tokens=8)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["do_sample"] is False and "temperature" not in generation
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (base_model_dir / name).read_bytes()
    assert not (folder / "origin.json").exists()
    assert not list(folder.glob("adapter*"))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_shared_weights_are_not_merged_twice(base_model_dir, tmp_path, record):
    adapter = an_adapter(base_model_dir, tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(PricerError, match="whose weights another layer shares .tied embeddings."):
        merge(base_model_dir, adapter, record, onto="trained", dtype=torch.float32)


def test_what_float16_cannot_hold_is_told(base_model_dir, tmp_path, record):
    adapter = an_adapter(base_model_dir, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file({name: weight * 1e4 for name, weight in load_file(file).items()}, file)
    with pytest.raises(BaseModelError, match="holds more than float16 can: .* --dtype bfloat16"):
        merge(base_model_dir, adapter, record, onto="trained", dtype=torch.float16)
    merge(base_model_dir, adapter, record, onto="trained", dtype=torch.bfloat16)
