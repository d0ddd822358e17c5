"""Layers on a CPU as one operation each: what autograd would cast, copy and keep is left out."""

from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear


class FusedLora(torch.autograd.Function):
    """A frozen linear layer and its adapter: x W' + s (dropout(x) A') B' (Hu et al. 2021, LoRA).

    The adapter's float32 weights are cast to the type of `x` once each way; the two products are
    added in place; nothing but the inputs and the r numbers between A and B is kept for the way
    back.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor,
        weight: torch.Tensor,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        rows, inner = x.reshape(-1, x.shape[-1]), dropped.reshape(-1, x.shape[-1])
        a, b = lora_a.to(x.dtype), (lora_b * scaling).to(x.dtype)
        low = inner @ a.t()
        y = (rows @ weight.t()).addmm_(low, b.t())
        ctx.save_for_backward(inner, low, weight, a, b)
        ctx.scaling, ctx.same = scaling, dropped is x
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: D102
        inner, low, weight, a, b = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_low = rows @ b
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = rows @ weight
            if ctx.same:
                grad_x.addmm_(grad_low, a)
            grad_x = grad_x.view(*grad.shape[:-1], -1)
        if ctx.needs_input_grad[1] and not ctx.same:
            grad_dropped = (grad_low @ a).view(*grad.shape[:-1], -1)
        grad_a = (grad_low.t() @ inner).float()
        grad_b = (rows.t() @ low).float() * ctx.scaling
        return grad_x, grad_dropped, None, grad_a, grad_b, None


class FusedNorm(torch.autograd.Function):
    """RMSNorm with a frozen weight (Zhang & Sennrich 2019, equation 4), in float32."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: D102
        x, weight, scale = ctx.saved_tensors
        wide, normed = (grad * weight).float(), x.float() * scale
        along = (wide * normed).mean(-1, keepdim=True)
        return wide.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), None, None


def fuse(model: PeftModel) -> None:
    """Have layers of a model on a CPU computed by `FusedLora` and `FusedNorm` where it is the same.

    Nothing of the base model may be trained. To be called again for a further adapter.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    for layer in model.modules():
        if type(layer) is LoraLinear:
            vars(layer).pop("forward", None)  # an adapter of another kind may have come
            if _is_plain(layer):
                layer.forward = MethodType(_lora, layer)
        elif type(layer).__name__.endswith("RMSNorm") and _is_usual(layer):
            layer.forward = MethodType(_norm, layer)


def _is_plain(layer: LoraLinear) -> bool:
    return (
        type(layer.base_layer) is torch.nn.Linear
        and layer.base_layer.bias is None
        and not layer.lora_variant  # DoRA and others
        and not any(layer.lora_bias.values())
        and len(layer.active_adapters) == 1
    )


def _lora(layer: LoraLinear, x: torch.Tensor) -> torch.Tensor:
    [name] = layer.active_adapters
    # where there are several adapters, not each is on each layer
    if layer.disable_adapters or layer.merged or name not in layer.lora_A:
        plain: torch.Tensor = layer.base_layer(x)
        return plain
    x = x.to(layer.base_layer.weight.dtype)
    dropped = layer.lora_dropout[name](x)
    result: torch.Tensor = FusedLora.apply(  # type: ignore[no-untyped-call]
        x,
        dropped,
        layer.base_layer.weight,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
    )
    return result


def _is_usual(layer: torch.nn.Module) -> bool:
    """Tell whether a norm computes what `FusedNorm` does: some add 1 to their weight."""
    weight = getattr(layer, "weight", None)  # some have none
    if not hasattr(layer, "variance_epsilon") or not isinstance(weight, torch.Tensor):
        return False
    some = torch.linspace(-2, 3, 4 * weight.numel()).view(4, -1).to(weight.dtype)
    with torch.no_grad():
        return torch.equal(layer(some), _norm(layer, some))


def _norm(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = FusedNorm.apply(  # type: ignore[no-untyped-call]
        x, layer.weight, layer.variance_epsilon
    )
    return result
