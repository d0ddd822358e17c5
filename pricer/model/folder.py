"""A base model folder as it may come from anyone: its configuration and weight files, checked.

Whatever is wrong is told before a library reads it: that would build a billion layers, follow a
name out of the folder, or put an adapter that lies beside the weights on them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pricer.errors import BaseModelError, quoted
from pricer.files import read_json
from pricer.hub import checked_names
from pricer.params import Quantization

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
WINDOWED = ("sliding_attention", "chunked_attention")  # kinds of layers
READ_AFTER = 64  # tokens of prices beside each other in a cache, at most
# far above any model that there is; a layer takes milliseconds to build, whatever its width
LARGEST = {
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "num_experts": 10_000,
    "num_local_experts": 10_000,
    "head_dim": 100_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 10_000_000,
}


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's configuration.

    Raises:
        BaseModelError: it is damaged, or of a model that no machine can hold.
    """
    file = folder / CONFIG
    config = read_object(file)
    text_config = config.get("text_config")
    for part in (config, text_config if isinstance(text_config, dict) else {}):
        for key, largest in LARGEST.items():
            _check_size(file, key, part.get(key), largest)
    return config


def _check_size(file: Path, key: str, value: object, largest: int) -> None:
    sizes = value if isinstance(value, list) else [value]  # some models have one a layer
    for size in sizes:
        if size is not None and not (type(size) is int and 0 < size <= largest):
            raise BaseModelError(
                f"{file}: {key} is {quoted(size)}, must be a whole number from 1 to {largest:,}"
            )


def read_object(file: Path) -> dict[str, Any]:
    """Return what a JSON file of a model holds.

    Raises:
        BaseModelError: it is not there, damaged, or holds no object.
    """
    value = read_value(file)
    if not isinstance(value, dict):
        raise BaseModelError(f"{file}: holds {quoted(value)}, must be an object")
    return value


def read_value(file: Path) -> Any:
    """Return what a JSON file of a model holds, whatever it is.

    Raises:
        BaseModelError: it is not there, or damaged.
    """
    try:
        return read_json(file)
    except OSError as error:
        raise BaseModelError(f"{file}: not readable ({error.strerror})") from None
    except ValueError as error:
        raise BaseModelError(f"{file}: not valid JSON ({error}); is the file complete?") from None


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weight files that a model folder has, or by its index should have.

    Raises:
        BaseModelError: the index is damaged.
        HubError: a name leads out of the folder.
    """
    index = folder / WEIGHT_FILES[1]
    if not index.is_file():
        return [WEIGHT_FILES[0]]
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BaseModelError(f"{index}: has no weight_map, which names the file of each weight")
    files = sorted(set(checked_names(names.values(), str(folder))))
    if inner := [name for name in files if "/" in name]:
        raise BaseModelError(f"{index}: {quoted(inner[0])} is not beside it, as weights must be")
    return files


def attention_window(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens those layers of a text model see that do not see all, if there are."""
    kinds = config.get("layer_types")
    if kinds:
        slides = any(kind in WINDOWED for kind in kinds)
    else:
        slides = config.get("use_sliding_window", True)
    windows = [config.get(key) for key in ("sliding_window", "attention_chunk_size")]
    return min((size for size in windows if size and slides), default=None)


def check_window(config: Mapping[str, Any], tokens: int, where: str) -> None:
    """Raise BaseModelError if some layers of a model see less than prompts and what is read after.

    Prices would be read from other keys than the model was trained on.

    Args:
        config: the model's.
        tokens: of the longest prompt.
        where: its folder, for the message.
    """
    window = attention_window(config.get("text_config") or config)
    if window is not None and tokens + READ_AFTER > window:
        raise BaseModelError(
            f"{where}: some layers see {window} tokens alone (sliding_window), too few for prompts "
            f"of {tokens} and the {READ_AFTER} that prices are read from: lower prompts.cutoff and "
            "prompts.max_length, or take another model"
        )


def check_quantized(config: dict[str, Any], quantization: Quantization, where: str) -> None:
    """Raise BaseModelError if a model is quantized already, and not as the params say."""
    stored = config.get("quantization_config")
    if stored is None:
        return
    method = stored.get("quant_method") if isinstance(stored, dict) else None
    if method == "bitsandbytes" and all(
        stored.get(key) == value for key, value in quantization.model_dump().items()
    ):
        return
    raise BaseModelError(
        f"{where}: is quantized already ({quoted(method)}), and not as the params under "
        "quantization say: take the model that it was made of, or set them to what its "
        f"{CONFIG} says (quantization_config)"
    )


def refuse_adapter(folder: Path) -> None:
    """Raise BaseModelError if an adapter lies beside the weights: a library would put it on them.

    Where only its configuration is there, the weights would be looked for on the Hub.
    """
    if (folder / ADAPTER_CONFIG).exists():
        raise BaseModelError(
            f"{folder}: holds an adapter too ({ADAPTER_CONFIG}): "
            "take a folder or a repository of the base model alone"
        )
