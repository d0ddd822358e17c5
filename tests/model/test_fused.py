import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pricer.model.fused import _norm, _norm_of_a_gpu, fuse


class Layers(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.up, self.down = nn.Linear(12, 20, bias=bias), nn.Linear(20, 6, bias=bias)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


def adapted(*, bias: bool = False, bits: int = 32, dtype=torch.float32, **lora):
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=["up", "down"], init_lora_weights=False, **lora
    )
    layers = Layers(bias)
    if bits == 4:
        layers.up, layers.down = (packed(one, dtype) for one in (layers.up, layers.down))
    torch.manual_seed(2)
    return get_peft_model(layers, config)


def packed(layer: nn.Linear, dtype: torch.dtype) -> Linear4bit:
    found = Linear4bit(*layer.weight.shape[::-1], False, dtype, quant_type="nf4")
    found.load_state_dict(layer.to(dtype).state_dict())
    found.support_avx512bf16_for_cpu = False  # as `keep_unpacked` has it
    return found.to("cpu")  # this packs


def fused(model) -> list[bool]:
    fuse(model)
    return ["forward" in vars(one) for one in model.modules() if hasattr(one, "lora_A")]


def result(model, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)  # of dropout
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    weights = [p.grad for p in model.parameters() if p.requires_grad]
    assert len(weights) == 4
    return [y.detach(), x.grad, *weights]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_the_librarys(dropout, dtype):
    found = []
    for ours in (False, True):
        model = adapted(lora_dropout=dropout)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data if "lora_" in name else parameter.data.to(dtype)
        assert not ours or fused(model) == [True, True]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found.append(result(model.train(), torch.randn(3, 5, 12).to(dtype)))
    for library, own in zip(*found, strict=True):
        off = float((library - own).float().norm() / library.float().norm())
        assert library.dtype == own.dtype and off < (1e-6 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_in_4_bits_give_the_librarys_outputs_and_gradients(dtype):
    found = []
    for ours in (False, True):
        model = adapted(bits=4, dtype=dtype, lora_dropout=0.3)
        assert not ours or fused(model) == [True, True]
        x = torch.linspace(-2, 3, 3 * 5 * 12).view(3, 5, 12).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found.append(result(model.train(), x))
            with torch.no_grad():
                found[-1].append(model.eval()(x))
    for library, own in zip(*found, strict=True):
        off = float((library - own).float().norm() / library.float().norm())
        assert library.dtype == own.dtype and off < (1e-6 if dtype == torch.float32 else 0.03)


def test_without_the_adapter_it_is_the_base_model():
    model, x = adapted(), torch.randn(2, 12)
    fused(model)
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(x), Layers()(x))
    merged = model(x)
    model.merge_adapter()
    assert torch.allclose(model(x), merged, atol=1e-5)


@pytest.mark.parametrize("other", [{"use_dora": True}, {"bias": True}, {"lora_bias": True}])
def test_other_kinds_of_layers_are_left_to_the_library(other):
    bias = other.get("bias", False) or "lora_bias" in other
    lora = {key: value for key, value in other.items() if key != "bias"}
    assert fused(adapted(bias=bias, **lora)) == [False, False]


def test_the_norm_of_a_gpu_is_the_norm_but_for_rounding():
    layer = LlamaRMSNorm(8).to(torch.bfloat16)
    layer.weight.data = torch.linspace(0.5, 2, 8).bfloat16()
    found = []
    for norm in (_norm, _norm_of_a_gpu):
        x = torch.linspace(-3, 5, 40).view(5, 8).bfloat16().requires_grad_()
        y = norm(layer, x)
        y.float().square().sum().backward()
        found.append([y, x.grad])
    for ours, gpu in zip(*found, strict=True):
        assert gpu.dtype == torch.bfloat16
        assert torch.allclose(ours.float(), gpu.float(), rtol=0.02, atol=0.05)
