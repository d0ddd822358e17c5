import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pricer.errors import BaseModelError
from pricer.model.base import (
    choose_device,
    choose_dtype,
    keep_unpacked,
    load_base_model,
    load_tokenizer,
)
from tests.quantization import quantization

CPU = torch.device("cpu")


def load(
    folder, *, bits: int = 4, dtype=torch.bfloat16, quant_storage=None, dequantize: bool = False
):
    return load_base_model(
        folder,
        device=CPU,
        dtype=dtype,
        quantization=quantization(bits),
        quant_storage=quant_storage,
        dequantize=dequantize,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dequantized_weights_are_the_same_numbers(base_model_dir, monkeypatch, dtype):
    ids = torch.tensor([[5, 6, 7]])

    def kinds(model):
        return {type(layer).__name__ for layer in model.model.layers.modules()}

    with torch.no_grad():
        packed = load(base_model_dir, dtype=dtype)
        held = load(base_model_dir, dtype=dtype, dequantize=True)
        assert "Linear4bit" in kinds(packed) and "Linear4bit" not in kinds(held)
        assert torch.equal(packed(ids).logits, held(ids).logits)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    assert "Linear4bit" in kinds(load(base_model_dir, dequantize=True))


def test_weights_stored_in_the_compute_type_are_the_same_weights(base_model_dir):
    """As FSDP needs them."""
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        stored = load(base_model_dir, quant_storage=torch.bfloat16)
        assert stored.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        assert torch.equal(stored(ids).logits, load(base_model_dir)(ids).logits)


def test_a_gpu_that_is_not_there_is_told():
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(BaseModelError, match=f"compute.device is {missing}, but torch sees"):
        choose_device(missing)
    assert choose_device("cpu") == CPU


def test_precision_follows_the_device(monkeypatch):
    for features, dtype in (
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"bf16": True}, torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=features: found)
        assert choose_dtype("auto", CPU) == dtype
    assert choose_dtype("float32", CPU) == torch.float32
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert choose_dtype("auto", torch.device("cuda:0")) == dtype


def with_gpu(monkeypatch, capability: tuple[int, int]) -> torch.device:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    return torch.device("cuda")


def test_a_gpu_that_is_too_old_is_told(monkeypatch):
    with_gpu(monkeypatch, (6, 1))
    for requested in ("auto", "cuda", "cuda:0"):
        with pytest.raises(BaseModelError, match=r"capability 6.1, below the 7.0 .* to cpu$"):
            choose_device(requested)
    assert choose_device("cpu") == CPU


def test_bfloat16_is_told_where_the_gpu_is_too_old_for_it(monkeypatch):
    gpu = with_gpu(monkeypatch, (7, 5))
    assert choose_device("auto") == gpu
    with pytest.raises(BaseModelError, match="capability 7.5, below 8.0: set it to auto or flo"):
        choose_dtype("bfloat16", gpu)
    assert choose_dtype("float16", gpu) == torch.float16
    assert choose_dtype("bfloat16", with_gpu(monkeypatch, (8, 6))) == torch.bfloat16


def test_quantizing_on_a_gpu_without_cuda_in_bitsandbytes_is_told(base_model_dir, monkeypatch):
    monkeypatch.setattr("bitsandbytes.cextension.lib.compiled_with_cuda", False, raising=False)
    with pytest.raises(BaseModelError, match="has no CUDA support for torch's CUDA") as error:
        load_base_model(
            base_model_dir,
            device=torch.device("cuda"),
            dtype=torch.bfloat16,
            quantization=quantization(4),
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_quantized_models_stay_close_to_the_full_one(base_model_dir, tokenizer, bits):
    ids = tokenizer("What does this cost?", return_tensors="pt")["input_ids"]
    full = load(base_model_dir, bits=16, dtype=torch.float32)(ids).logits
    model = load(base_model_dir, bits=bits)
    assert not model.training
    kinds = {type(module).__name__ for module in model.modules()}
    assert {4: "Linear4bit", 8: "Linear8bitLt", 16: "Linear"}[bits] in kinds
    difference = (model(ids).logits.float() - full).abs().max() / full.abs().max()
    assert difference < {4: 0.5, 8: 0.1, 16: 0.05}[bits]


def test_predicting_does_not_repack_4_bit_weights(base_model_dir):
    """bitsandbytes would, on CPUs with AVX512-BF16, and training could not go on after that."""
    model = load(base_model_dir)
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    assert len(layers) == 14
    before = [layer.weight.data.clone() for layer in layers]
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
    for layer, weight in zip(layers, before, strict=True):
        assert not layer.support_avx512bf16_for_cpu
        assert torch.equal(layer.weight.data, weight)
        assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)


def test_the_guard_is_needed_where_it_is_applied(base_model_dir):
    """Shows what the guard prevents, on the machines that need it."""
    model = load(base_model_dir)
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    if not type(layers[0])(8, 8).support_avx512bf16_for_cpu:
        pytest.skip("this CPU has no AVX512-BF16, bitsandbytes packs nothing on it")
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
    assert any(layer.weight.quant_state.packing_format_for_cpu for layer in layers)
    keep_unpacked(model)
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("model.safetensors", "broken: cannot load the base model"),
        ("config.json", "broken: no base model there"),
    ],
)
def test_a_broken_model_folder_ends_in_one_line(base_model_dir, tmp_path, lost, says):
    folder = tmp_path / "broken"
    shutil.copytree(base_model_dir, folder)
    (folder / lost).unlink()
    with pytest.raises(BaseModelError, match=says) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_weights_that_lack_a_layer_are_refused(base_model_dir, tmp_path):
    """The library would fill the gap with random numbers, and only warn."""
    folder = tmp_path / "broken"
    shutil.copytree(base_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="broken: no weights for model.layers.1.mlp.up_proj"):
        load(folder)


@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(base_model_dir, tmp_path, bits, value):
    """In a layer that is quantized, which may hide it, and in one that is not."""
    folder = tmp_path / "broken"
    shutil.copytree(base_model_dir, folder)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        weights = load_file(base_model_dir / "model.safetensors")
        weights[name].view(-1)[-1] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BaseModelError, match=f"holds NaN, or more than .* in {name}") as error:
            load(folder, bits=bits)
        assert "\n" not in str(error.value)


def test_weights_that_overflow_in_the_compute_type_are_refused(base_model_dir, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(base_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = 70_000
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load(folder, dtype=torch.bfloat16)
    with pytest.raises(BaseModelError, match=r"more than float16 can hold, in model.norm.weight"):
        load(folder, dtype=torch.float16)


def test_truncated_weights_and_tokenizer_end_in_one_line(base_model_dir, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(base_model_dir, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseModelError, match="cannot load the base model"):
        load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BaseModelError, match="no readable tokenizer"):
        load_tokenizer(folder)


def test_padding_falls_back_to_the_end_of_text(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eos_token": None}, "no token that ends a text .eos_token."),
        ({"pad_token": "[PAD]"}, "token '.PAD.' of the tokenizer is number [0-9]+, but the model"),
    ],
)
def test_a_tokenizer_that_no_model_can_be_asked_with_is_told(
    base_model_dir, tmp_path, change, says
):
    """Here, and not at the first step of training."""
    shutil.copytree(base_model_dir, tmp_path / "base")
    file = tmp_path / "base/tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BaseModelError, match=says):
        load_tokenizer(tmp_path / "base")
