"""Adapters on disk: one that was trained here, or any standard PEFT adapter in a folder."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from pricer.errors import BaseModelError, first_line, quoted
from pricer.hub import card_data
from pricer.model.folder import ADAPTER_CONFIG as CONFIG
from pricer.model.folder import read_object
from pricer.model.fused import fuse
from pricer.provenance import digest, file_sha256

WEIGHTS = "adapter_model.safetensors"
USUAL_RANK = 256
FIRST = "default"  # the library's name for an adapter where there is one


def adapter_sha256(folder: Path) -> str:
    """Return one SHA-256 over an adapter's configuration and weights; its card may be edited.

    Raises:
        BaseModelError: there is no adapter.
    """
    check_adapter(folder)
    return digest({name: file_sha256(folder / name) for name in (CONFIG, WEIGHTS)})


def check_adapter(folder: Path) -> None:
    """Raise BaseModelError unless a folder holds an adapter: a library would ask the Hub for it."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BaseModelError(f"{folder}: no adapter there (no {name})")


def card_settings(folder: Path) -> dict[str, Any]:
    """Return what an adapter's card says of how it was trained, {} for one made elsewhere.

    Returns:
        base_model_sha256, cutoff and quantization, as a serving record has them.
    """
    settings = card_data(folder).get("pricer")
    return dict(settings) if isinstance(settings, dict) else {}


def load_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, dtype: torch.dtype, *, name: str = FIRST
) -> PeftModel:
    """Put the adapter in `folder` on a base model, for prediction in `dtype`.

    Args:
        model: a base model, or one with adapters, which shares its weights with one more; the one
            in use stays so.
        folder: the adapter's.
        dtype: of the adapter's weights.
        name: that `set_adapter` knows it by.

    Raises:
        BaseModelError: there is no adapter, it does not fit the base model, or its weights are not
            all there, others too, or no numbers.
    """
    check_adapter(folder)
    _check_ranks(folder)
    try:
        with warnings.catch_warnings():  # it warns of missing weights, which end the call below
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name, local_files_only=True)
            else:
                model = PeftModel.from_pretrained(
                    model, str(folder), adapter_name=name, local_files_only=True
                )
        with safe_open(folder / WEIGHTS, "pt") as file:
            stored = set(file.keys())
    except Exception as error:  # whatever a strange configuration leads the library to
        raise BaseModelError(
            f"{folder}: cannot be put on this base model ({first_line(error)})"
        ) from error
    # the library starts what is missing at random, and leaves out what it does not know
    needed = get_peft_model_state_dict(model, save_embedding_layers=False, adapter_name=name)
    _compare_weights(folder, stored, set(needed))
    for weight, parameter in model.named_parameters():
        if "lora_" in weight and name in weight.split("."):
            if not parameter.isfinite().all():
                raise BaseModelError(
                    f"{folder}: {WEIGHTS} holds infinite weights or NaN in {weight}"
                )
            # trained in float32; casting once is cheaper than with every token
            parameter.data = parameter.data.to(dtype)
    fuse(model)
    return model.eval()


def _check_ranks(folder: Path) -> None:
    """Raise BaseModelError unless a configuration is of LoRA, of ranks that its weights can have.

    The library makes room for any rank, and other kinds of adapters load more than their weights.
    """
    config = read_object(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise BaseModelError(
            f"{folder}: {CONFIG} has peft_type {quoted(config.get('peft_type'))}, must be LORA"
        )
    pattern = config.get("rank_pattern") or {}
    widest = _widest(folder / WEIGHTS)
    for rank in (config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])):
        if type(rank) is not int or not 0 < rank <= widest:
            raise BaseModelError(
                f"{folder}: cannot be put on this base model: {CONFIG} has rank {quoted(rank)}, "
                f"{WEIGHTS} is of ranks up to {widest}"
            )


def _widest(weights: Path) -> int:
    """Return the largest size of any tensor in a file; nothing is loaded."""
    try:
        with safe_open(weights, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in list(file.keys())]
    except (OSError, SafetensorError) as error:
        raise BaseModelError(f"{weights}: not readable ({first_line(error)})") from None
    # without any, what is missing is told later on
    return max((size for shape in shapes for size in shape), default=USUAL_RANK)


def _compare_weights(folder: Path, stored: set[str], needed: set[str]) -> None:
    for names, what in ((needed - stored, "lacks"), (stored - needed, "holds, as no part of it,")):
        if names:
            raise BaseModelError(
                f"{folder}: {WEIGHTS} {what} {len(names)} of the adapter's weights, first "
                f"{min(names)}: it is not the file that {CONFIG} is of"
            )


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
        weights: of the adapter, where `model` does not hold them itself.
    """
    config = model.peft_config[FIRST]
    config.base_model_name_or_path = base_model
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(str(folder), state_dict=weights or None, save_embedding_layers=False)
