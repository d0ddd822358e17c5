"""What an adapter adds to a model and what training it takes, from configurations alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from pricer.commands.memory import GIB, Recipe, Shape, training_bytes
from pricer.errors import BaseModelError, first_line
from pricer.model.base import (
    choose_device,
    choose_dtype,
    dtype_name,
    load_base_model,
    load_tokenizer,
)
from pricer.model.lora import lora_config
from pricer.model.sources import TOKENIZER_FILES, find_config
from pricer.params import Lora, Params
from pricer.prices.trie import build_price_trie
from pricer.tables import table

SMALL = 1e9  # bytes of weights that are loaded in seconds


@dataclass(frozen=True)
class Modules:
    """Layers of one name and shape, one in each decoder layer.

    Attributes:
        name: with * for the number of the decoder layer.
        inputs: width of what goes in.
        outputs: width of what comes out.
        count: how many they are.
        trainable: parameters that the adapter adds to each.
    """

    name: str
    inputs: int
    outputs: int
    count: int
    trainable: int


def adapted_model(config: dict[str, Any], lora: Lora) -> PeftModel:
    """Return a model without weights, with an adapter as training makes it.

    Raises:
        BaseModelError: the library does not know such a model.
        ParamsError: the model has no layers as `lora.target_modules` names them.
    """
    values = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        parsed = AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(parsed)
    except Exception as error:  # whatever a strange configuration leads the library to
        raise BaseModelError(
            f"not a configuration of a causal language model: {first_line(error)}"
        ) from None
    return get_peft_model(model, lora_config(model, lora), low_cpu_mem_usage=True)


def module_table(model: PeftModel) -> list[Modules]:
    """Return the linear layers of a model, those of the same name and shape as one."""
    found: dict[tuple[str, int, int, int], int] = {}
    for name, layer, base in _linear_layers(model):
        trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        key = (re.sub(r"\.\d+\.", ".*.", name), base.in_features, base.out_features, trainable)
        found[key] = found.get(key, 0) + 1
    return [
        Modules(name, inputs, outputs, count, trainable)
        for (name, inputs, outputs, trainable), count in found.items()
    ]


def model_shape(model: PeftModel) -> Shape:
    """Return what the memory of a model with an adapter follows from."""
    config = model.config.get_text_config()
    quantized = [
        base for _, _, base in _linear_layers(model) if base is not model.get_output_embeddings()
    ]
    sizes = [base.in_features * base.out_features for base in quantized]
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    trainable, total = model.get_nb_trainable_parameters()
    heads = config.num_attention_heads
    return Shape(
        linear=sum(sizes),
        linear_rows=sum(base.out_features for base in quantized),
        linear_layers=len(quantized),
        largest_linear=max(sizes),
        other=total - trainable - sum(sizes),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        adapter=trainable,
        adapted_widths=sum(layer.in_features + layer.r["default"] for layer in adapted),
    )


def estimate(shape: Shape, params: Params) -> dict[str, int]:
    """Return the bytes of training by part, on the device that the params lead to."""
    device = choose_device(params.compute.device)
    dtype = choose_dtype(params.compute.dtype, device)
    return estimate_on(device.type, dtype_name(dtype), shape, params)


def estimate_on(device: str, dtype: str, shape: Shape, params: Params) -> dict[str, int]:
    """Return the bytes of training by part, on a machine that need not be this one.

    Args:
        device: "cpu" or "cuda".
        dtype: see `Recipe`.
        shape: the model with its adapter.
        params: of the run.
    """
    bits = params.quantization.bits
    held = bits == 4 and params.compute.dequantize and device == "cpu"
    recipe = Recipe(
        bits=16 if held else bits,
        double_quant=params.quantization.bnb_4bit_use_double_quant,
        dtype=dtype,
        optim=params.train.optim,
        batch=params.train.per_device_train_batch_size,
        length=params.prompts.max_length,
        dropout=params.lora.lora_dropout > 0,
        checkpointing=params.train.activation_checkpointing,
        fused=device == "cuda",
    )
    return training_bytes(shape, recipe)


def measured_weights(base_model_dir: Path, params: Params) -> int:
    """Load the base model as the stages do, and return the bytes of its weights.

    Raises:
        BaseModelError: it cannot be loaded.
    """
    device = choose_device(params.compute.device)
    model = load_base_model(
        base_model_dir,
        device=device,
        dtype=choose_dtype(params.compute.dtype, device),
        quantization=params.quantization,
        dequantize=params.compute.dequantize,
    )
    return int(model.get_memory_footprint(return_buffers=False))


def price_tokens(folder: Path, max_price: int) -> str:
    """Say in how many tokens a folder's tokenizer writes prices, and how they are read."""
    prices = f"prices $0 to ${max_price}"
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"{prices}: no tokenizer on this machine, run `dvc repro fetch` first"
    try:
        trie = build_price_trie(load_tokenizer(folder), max_price)
    except BaseModelError as error:
        return f"{prices}: none can be read, {error}"
    passes = int(trie.depths.max()) + 1
    if passes == 1:
        return f"{prices}: 1 token each, all read in one pass"
    beginnings = len(trie.node_tokens) - 1
    return f"{prices}: up to {passes} tokens, read in {passes} passes over {beginnings} beginnings"


def inspection_text(params: Params, base_model_dir: Path, measure: bool) -> str:
    """Return what `pricer inspect` prints.

    Args:
        params: of the workspace or a preset.
        base_model_dir: what `fetch@model` writes.
        measure: load the weights that are there, however large; small ones are loaded anyway.

    Raises:
        PricerError: there is no configuration, or it does not go with the params or this machine.
    """
    config, source = find_config(params.model, base_model_dir)
    model = adapted_model(config, params.lora)
    shape = model_shape(model)
    modules = module_table(model)
    lines = [
        f"{shape.linear + shape.other:,} parameters (configuration: {source})",
        price_tokens(Path(source).parent, params.predict.max_price),
        "",
        table(
            ["layer", "in", "out", "layers", "LoRA parameters each", "in all"],
            [
                [
                    row.name,
                    str(row.inputs),
                    str(row.outputs),
                    str(row.count),
                    f"{row.trainable:,}" if row.trainable else "-",
                    f"{row.count * row.trainable:,}" if row.trainable else "-",
                ]
                for row in modules
            ],
            markdown=False,
        ),
        "",
        f"trainable parameters: {shape.adapter:,}",
        f"adapter: {4 * shape.adapter / 1e6:,.1f} MB",
        "",
    ]
    parts = estimate(shape, params)
    parts["together"] = sum(parts.values())
    device = choose_device(params.compute.device)
    lines += [
        f"memory to train on {device}, estimated: batches of "
        f"{params.train.per_device_train_batch_size} x {params.prompts.max_length} tokens, "
        f"activation checkpointing {'on' if params.train.activation_checkpointing else 'off'}",
        "",
        table(
            ["part", "GiB"],
            [[part, f"{size / GIB:.2f}"] for part, size in parts.items()],
            markdown=False,
        ),
    ]
    fetched = source == str(base_model_dir / "config.json")
    size = sum(file.stat().st_size for file in base_model_dir.glob("*.safetensors"))
    if fetched and (measure or 0 < size < SMALL):
        measured = measured_weights(base_model_dir, params)
        lines += ["", f"base weights, measured: {measured / GIB:.2f} GiB ({measured:,} bytes)"]
    elif measure:
        raise BaseModelError(f"{base_model_dir} has no such model: run `dvc repro fetch` first")
    return "\n".join(lines)


def _linear_layers(model: PeftModel) -> Iterator[tuple[str, torch.nn.Module, torch.nn.Linear]]:
    """Yield the name, the layer with its adapter, if it has one, and the layer without."""
    wrapped = ("base_layer", "lora_")
    for name, module in model.get_base_model().named_modules():
        if any(part in name for part in wrapped):
            continue
        base = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(base, torch.nn.Linear):
            yield name, module, base
