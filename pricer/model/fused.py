"""Layers as one operation each and, on a CPU, no more of the last one than is asked for.

What autograd would cast, copy and keep is left out, and what nobody reads is not computed.
"""

from functools import wraps
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from transformers import PreTrainedModel

from pricer.model.attention import KINDS

# parts of the last layer that nobody reads where no logits are asked for
UNREAD = ("self_attn.q_proj", "self_attn.o_proj", "mlp")


class FusedLora(torch.autograd.Function):
    """A frozen linear layer and its adapter: x W' + s (dropout(x) A') B' (Hu et al. 2021, LoRA).

    The adapter's float32 weights are cast to the type of `x` once each way; the two products are
    added in place; nothing but the inputs and the r numbers between A and B is kept for the way
    back. A weight of 4 bits is dequantized each way.
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
        ctx.state = getattr(weight, "quant_state", None)
        y = (rows @ _numbers(weight, ctx.state, x.dtype).t()).addmm_(low, b.t())
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
            grad_x = rows @ _numbers(weight, ctx.state, grad.dtype)
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


def _numbers(weight: torch.Tensor, state: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return what a frozen weight stands for; `state`: of bitsandbytes, None for plain numbers."""
    numbers: torch.Tensor = weight if state is None else dequantize_4bit(weight, state).to(dtype)
    return numbers


def fuse(model: PeftModel) -> None:
    """Have layers computed by `FusedLora` and `FusedNorm`, where it is the same.

    A GPU has a norm of its own, the same but for rounding. And on a CPU the last layer is computed
    only where logits are asked for, for kinds of models that tests hold for equal. Nothing of the
    base model may be trained. To be called again for a further adapter.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    for layer in model.modules():
        if type(layer) in (LoraLinear, LoraLinear4bit):
            vars(layer).pop("forward", None)  # an adapter of another kind may have come
            if _is_plain(layer):
                layer.forward = MethodType(_lora, layer)
        elif type(layer).__name__.endswith("RMSNorm") and _is_usual(layer):
            layer.forward = MethodType(_norm if on_cpu else _norm_of_a_gpu, layer)
    base = model.get_base_model()
    if on_cpu and isinstance(base, PreTrainedModel) and base.config.model_type in KINDS:
        _skip_unread(base)


def _skip_unread(model: PreTrainedModel) -> None:
    """Have the last layer compute no queries, and nothing after attention, where no logits are.

    What it makes of other positions is read by nobody, their keys and values apart.
    """
    last: Any = model.model.layers[-1]
    if hasattr(last, "asked"):  # a further adapter
        return
    last.asked = slice(None)
    forward = model.forward

    @wraps(forward)  # libraries look at what it takes
    def with_asked(*args: Any, logits_to_keep: int | torch.Tensor = 0, **kwargs: Any) -> Any:
        of_the_end = isinstance(logits_to_keep, int)
        last.asked = slice(-logits_to_keep, None) if of_the_end else logits_to_keep
        return forward(*args, logits_to_keep=logits_to_keep, **kwargs)

    model.forward = with_asked

    def cut(part: Any, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        part.positions = inputs[0].shape[1]
        return inputs[0][:, last.asked]

    def put_back(part: Any, _: Any, found: torch.Tensor) -> torch.Tensor:
        if isinstance(last.asked, slice) and found.shape[1] == part.positions:
            return found
        everywhere = found.new_zeros((len(found), part.positions, found.shape[2]))
        everywhere[:, last.asked] = found
        return everywhere

    for name in UNREAD:
        try:
            part = last.get_submodule(name)
        except AttributeError:  # queries of one product with keys and values
            continue
        part.register_forward_pre_hook(cut)
        part.register_forward_hook(put_back)


def _is_plain(layer: LoraLinear | LoraLinear4bit) -> bool:
    return (
        type(layer.base_layer) in (torch.nn.Linear, Linear4bit)
        and layer.base_layer.bias is None
        and not layer.lora_variant  # DoRA and others
        and not any(layer.lora_bias.values())
        and len(layer.active_adapters) == 1
    )


def _lora(layer: LoraLinear | LoraLinear4bit, x: torch.Tensor) -> torch.Tensor:
    [name] = layer.active_adapters
    base = layer.base_layer
    packed = isinstance(base, Linear4bit)
    if (
        layer.disable_adapters
        or layer.merged
        or name not in layer.lora_A  # where there are several adapters, not each is on each layer
        or (packed and not torch.is_grad_enabled())  # the library has a kernel that only reads
    ):
        plain: torch.Tensor = type(layer).forward(layer, x)
        return plain
    x = x.to(base.compute_dtype if packed else base.weight.dtype)
    dropped = layer.lora_dropout[name](x)
    result: torch.Tensor = FusedLora.apply(  # type: ignore[no-untyped-call]
        x,
        dropped,
        base.weight,
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
    some = torch.linspace(-2, 3, 4 * weight.numel(), device=weight.device).view(4, -1)
    some = some.to(weight.dtype)
    with torch.no_grad():
        return torch.equal(layer(some), _norm(layer, some))


def _norm(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = FusedNorm.apply(  # type: ignore[no-untyped-call]
        x, layer.weight, layer.variance_epsilon
    )
    return result


def _norm_of_a_gpu(layer: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):  # it would widen to float32 and back
        return F.rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)
