"""Adapters that are damaged are refused; no folder is taken for a repository on the Hub."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from pricer.errors import BaseModelError
from pricer.model.adapters import CONFIG, WEIGHTS, load_adapter
from pricer.model.base import load_base_model
from tests.quantization import quantization


def load_base(folder: Path):
    return load_base_model(
        folder,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=quantization(16),
    )


@pytest.fixture
def adapter(base_model_dir, tmp_path) -> Path:
    torch.manual_seed(0)
    model = get_peft_model(load_base(base_model_dir), LoraConfig(r=2, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def without_half(weights):
    return dict(list(weights.items())[::2])


def renamed(weights):
    return {name.replace("layers.0", "layers.9"): weight for name, weight in weights.items()}


def with_more(weights):
    name = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    return weights | {name: torch.zeros(2, 64)}


def with_nan(weights):
    return {name: weight * float("nan") for name, weight in weights.items()}


def with_infinity(weights):
    return {name: weight + float("inf") for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_half, "lacks 4 of the adapter's weights, first base_model.model.model.layers.0"),
        (lambda _: {}, "lacks 8 of the adapter's weights"),
        (renamed, "lacks 4 of the adapter's weights"),
        (with_more, "holds, as no part of it, 1 of the adapter's weights, first base_model"),
        (with_nan, "holds infinite weights or NaN in base_model.model.model.layers.0"),
        (with_infinity, "holds infinite weights or NaN in"),
    ],
)
def test_weights_that_are_not_the_adapters_are_refused(adapter, base_model_dir, damage, says):
    save_file(damage(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(BaseModelError) as error:
        load_adapter(load_base(base_model_dir), adapter, torch.float32)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_folder_without_an_adapter_asks_nobody(adapter, base_model_dir, name, monkeypatch):
    """A library takes the name of a folder that lacks a file for a repository on the Hub."""
    requests: list[object] = []
    monkeypatch.setattr("socket.socket.connect", lambda _, address: requests.append(address))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (adapter / name).unlink()
    with pytest.raises(BaseModelError, match=f"no adapter there \\(no {name}\\)"):
        load_adapter(load_base(base_model_dir), adapter, torch.float32)
    assert not requests


def test_a_rank_that_the_weights_do_not_have_is_one_line(adapter, base_model_dir):
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | {"r": 4}))
    with pytest.raises(BaseModelError, match="cannot be put on this base model") as error:
        load_adapter(load_base(base_model_dir), adapter, torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r": 10**9}, "has rank 1000000000, adapter_model.safetensors is of ranks up to"),
        ({"r": -1}, "has rank -1"),
        ({"r": "4"}, "has rank '4'"),
        ({"rank_pattern": {"q_proj": 10**9}}, "has rank 1000000000"),
        ({"rank_pattern": [1, 2]}, "has rank [1, 2]"),
        ({"peft_type": "PROMPT_TUNING"}, "has peft_type 'PROMPT_TUNING', must be LORA"),
        ({"peft_type": None}, "has peft_type None, must be LORA"),
        ({"target_modules": 7}, "cannot be put on this base model"),
        ({"target_modules": "["}, "cannot be put on this base model"),
        ({"lora_alpha": "much"}, "cannot be put on this base model"),
    ],
)
def test_a_strange_configuration_is_one_line(adapter, base_model_dir, changes, says):
    """A rank without bound would take all memory there is."""
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | changes))
    with pytest.raises(BaseModelError) as error:
        load_adapter(load_base(base_model_dir), adapter, torch.float32)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"7" * 5000])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_damaged_file_is_one_line(adapter, base_model_dir, content, name):
    (adapter / name).write_bytes(content)
    with pytest.raises(BaseModelError) as error:
        load_adapter(load_base(base_model_dir), adapter, torch.float32)
    assert name in str(error.value) and "\n" not in str(error.value)
