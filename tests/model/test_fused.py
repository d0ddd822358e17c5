import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from pricer.model.fused import fuse


class Layers(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.up, self.down = nn.Linear(12, 20, bias=bias), nn.Linear(20, 6, bias=bias)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


def adapted(*, bias: bool = False, **lora):
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=["up", "down"], init_lora_weights=False, **lora
    )
    torch.manual_seed(2)
    return get_peft_model(Layers(bias), config)


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
