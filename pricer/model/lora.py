"""The adapter's params in peft's terms: which layers of a base model it changes, and how."""

import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from pricer.errors import ParamsError
from pricer.params import Lora

# what the modules that hold a group's linear layers have in their names, in any architecture
GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn")}


def lora_config(model: PreTrainedModel, lora: Lora) -> LoraConfig:
    """Return peft's configuration of the adapter that the params ask for.

    Raises:
        ParamsError: the model has no such layers.
    """
    return LoraConfig(
        task_type="CAUSAL_LM",
        bias="none",
        **lora.model_dump(exclude={"target_modules"}),
        target_modules=target_modules(model, lora.target_modules),
    )


def target_modules(model: PreTrainedModel, wanted: str | list[str]) -> str | list[str]:
    """Return what peft finds the layers by: names in order, or `all-linear`, which it knows itself.

    The order is part of the saved adapter: a list, never a set.

    Args:
        model: the base model.
        wanted: names of linear layers, a group of them, or `all-linear`.

    Raises:
        ParamsError: the model has no such layers.
    """
    if wanted == "all-linear":
        return wanted
    paths = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    if isinstance(wanted, str):
        found = _group(paths, GROUPS[wanted])
        lacks = [] if found else [wanted]
    else:
        found = sorted(wanted)
        lacks = sorted(set(wanted) - set(leaves))
    if lacks:
        raise ParamsError(
            f"lora.target_modules: the base model has no {', '.join(lacks)} layers "
            f"(it has {', '.join(leaves)})"
        )
    return found


def _group(paths: list[str], parts: tuple[str, ...]) -> list[str]:
    """Return names that end the paths of a group of layers and of no others."""
    inside = [path for path in paths if any(part in path.rpartition(".")[0] for part in parts)]
    others = {path.rpartition(".")[2] for path in set(paths) - set(inside)}
    names = set()
    for path in inside:
        *_, parent, leaf = path.split(".")
        names.add(f"{parent}.{leaf}" if leaf in others else leaf)
    return sorted(names)
