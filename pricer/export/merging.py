"""Base weights and adapter as one model: merged in float32, onto the numbers it was trained on."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pricer.errors import BaseModelError, PricerError
from pricer.model.adapters import load_adapter
from pricer.model.base import (
    choose_device,
    choose_dtype,
    dtype_name,
    load_base_model,
    replace_quantized_layers,
)
from pricer.model.folder import CONFIG, WEIGHT_FILES
from pricer.prices.record import ServingRecord

Onto = Literal["trained", "original"]
# of a base model's folder: what is not copied beside merged weights
NOT_COPIED = (CONFIG, "generation_config.json", "origin.json", *WEIGHT_FILES)
SMALL = (".json", ".model", ".txt", ".jinja")


def merge(
    base: Path, adapter: Path, record: ServingRecord, *, onto: Onto, dtype: torch.dtype
) -> PreTrainedModel:
    """Return one model of a base and its adapter.

    Each product of an adapter's two matrices is added in float32 and rounded once, to `dtype`.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter.
        record: how the base model is loaded for it.
        onto: the numbers that the quantized weights stand for, which the adapter was trained on,
            or the original weights, with which it makes another model.
        dtype: of the merged weights.

    Raises:
        BaseModelError: one of the folders cannot be loaded, or `dtype` cannot hold the sum.
        PricerError: the adapter changes weights that another layer uses too.
    """
    device = choose_device("auto")
    quantization = record.quantization
    if onto == "original":
        quantization = quantization.model_copy(
            update={"load_in_4bit": False, "load_in_8bit": False}
        )
    model = load_base_model(
        base,
        device=device,
        dtype=choose_dtype(record.dtype, device),
        quantization=quantization,
        dequantize=False,
    )
    replace_quantized_layers(model)
    with_adapter = load_adapter(model, adapter, torch.float32)
    _refuse_shared(with_adapter, adapter)
    for layer in with_adapter.modules():
        if isinstance(layer, LoraLayer):  # one at a time: float32 for all is twice the memory
            weights = layer.get_base_layer().float()
            layer.merge(safe_merge=True)
            weights.to(dtype)
    merged: PreTrainedModel = with_adapter.unload()
    if quantizer := getattr(merged, "hf_quantizer", None):
        quantizer.remove_quantization_config(merged)
    merged = merged.to(dtype)
    for name, weight in merged.named_parameters():
        if not weight.isfinite().all():
            raise BaseModelError(
                f"{base}: {name} with the adapter holds more than {dtype_name(dtype)} can: "
                "`pricer export merged` with --dtype bfloat16 takes it"
            )
    return merged


def _refuse_shared(model: PeftModel, adapter: Path) -> None:
    """Raise PricerError if an adapter changes weights that another layer uses too.

    The output layer of many models has the weights of the embeddings: merged, both would change.
    """
    users = Counter(
        weight.data_ptr()
        for module in model.modules()
        for weight in module.parameters(recurse=False)
    )
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and users[layer.get_base_layer().weight.data_ptr()] > 1:
            raise PricerError(
                f"{adapter}: changes {name}, whose weights another layer shares (tied embeddings): "
                "it cannot be merged, train with other lora.target_modules"
            )


def save_merged(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    folder: Path,
    *,
    max_new_tokens: int,
) -> None:
    """Write a merged model as a Hugging Face folder that decodes greedily.

    Args:
        model: from `merge`.
        tokenizer: of the base model.
        base: its folder, whose tokenizer's files are taken as they are.
        folder: an existing folder.
        max_new_tokens: of a text, unless a call says otherwise.
    """
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix in SMALL and file.name not in NOT_COPIED:
            shutil.copyfile(file, folder / file.name)
