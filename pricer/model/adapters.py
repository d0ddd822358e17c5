"""Adapters on disk: one that was trained here, or any standard PEFT adapter in a folder."""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel

from pricer.errors import BaseModelError


def load_adapter(base_model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PeftModel:
    """Put the adapter in `folder` on `base_model`, for prediction in `dtype`.

    Raises:
        BaseModelError: there is no adapter, or it does not fit the base model.
    """
    if not (folder / "adapter_config.json").is_file():  # the library would ask the Hub for it
        raise BaseModelError(f"{folder}: no adapter there (no adapter_config.json)")
    try:
        model = PeftModel.from_pretrained(base_model, str(folder)).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise BaseModelError(f"{folder}: cannot be put on this base model ({first})") from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            # trained in float32; casting once is cheaper than with every token
            parameter.data = parameter.data.to(dtype)
    return model


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    base_model: str,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a standard PEFT adapter without base weights.

    Args:
        model: after training.
        folder: an existing folder.
        base_model: what the adapter's configuration names as its base model.
        weights: from `gathered_weights`.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_model
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
