"""A merged model folder as one GGUF file, which llama.cpp and what is built on it read.

Written with NumPy alone: neither a compiler nor llama.cpp is needed.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from numpy.typing import NDArray
from safetensors import safe_open

from pricer.errors import BaseModelError, quoted
from pricer.files import writing
from pricer.model.base import load_tokenizer
from pricer.model.folder import read_config, read_object, weight_files

GgufType = Literal["f16", "q8_0", "q4_0"]
FILE_TYPES = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
# of a byte-level tokenizer: how text is split before tokens are merged, and what llama.cpp calls it
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    ("bytes of words",): "gpt-2",
    ("single digits", "bytes of words"): "smollm",
    (LLAMA3_SPLIT, "bytes"): "llama-bpe",
    (LLAMA3_SPLIT.replace("{1,3}", ""), "bytes"): "qwen2",
}
EMBEDDINGS = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class Stored:
    """A tensor of the model folder: where it is, and its shape."""

    file: Path
    name: str
    shape: tuple[int, ...]


def check_convertible(folder: Path) -> None:
    """Raise BaseModelError if no GGUF file can be made of a model, by all but its weights."""
    config = read_config(folder)
    _architecture(folder, config)
    _frequencies(folder, config)
    _pre_tokenizer(folder, _tokenizer(folder))


def _architecture(folder: Path, config: dict[str, Any]) -> gguf.MODEL_ARCH:
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        raise BaseModelError(
            f"{folder}: a model of type {quoted(config.get('model_type'))} cannot be written as "
            f"GGUF here, {', '.join(ARCHITECTURES)} can: `pricer export merged` takes any"
        )
    return architecture


def write_gguf(folder: Path, file: Path, kind: GgufType) -> None:
    """Write the model in `folder` as a GGUF file, one tensor in memory at a time.

    Args:
        folder: a Hugging Face folder of a Llama, Qwen2 or Qwen3 that is not quantized.
        file: to write.
        kind: of the linear layers and of the embeddings, which stay at 8 bits in q4_0; norms and
            biases are in 32 bits.

    Raises:
        BaseModelError: a kind of model, tokenizer or position that is not known here.
    """
    config = read_config(folder)
    architecture = _architecture(folder, config)
    tensors = _tensors(folder, config, architecture)
    frequencies = _frequencies(folder, config)
    with writing(file) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[architecture])
        _add_settings(writer, config, kind)
        _add_tokenizer(writer, folder, config)
        if frequencies is not None:
            _announce(writer, "rope_freqs.weight", frequencies.shape, GGMLQuantizationType.F32)
        for name, stored in tensors.items():
            _announce(writer, name, stored.shape, _type_of(name, stored.shape, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if frequencies is not None:
            writer.write_tensor_data(frequencies)
        for name, stored in tensors.items():
            values = _interleaved(_read(stored), stored.name, config)
            writer.write_tensor_data(
                gguf.quants.quantize(values, _type_of(name, stored.shape, kind))
            )
        writer.close()


def _announce(
    writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType
) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_of_it = math.prod(shape) // block * size
    writer.add_tensor_info(name, shape, np.dtype(np.float32), bytes_of_it, raw_dtype=kind)


def _type_of(name: str, shape: tuple[int, ...], kind: GgufType) -> GGMLQuantizationType:
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    wanted = "q8_0" if kind == "q4_0" and name in EMBEDDINGS else kind
    stored_as = GGMLQuantizationType[wanted.upper()]
    fits = shape[-1] % gguf.GGML_QUANT_SIZES[stored_as][0] == 0
    return stored_as if fits else GGMLQuantizationType.F16


def _tensors(
    folder: Path, config: dict[str, Any], architecture: gguf.MODEL_ARCH
) -> dict[str, Stored]:
    """Return the model's tensors by the names that they have in GGUF."""
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors = {}
    for file in (folder / name for name in weight_files(folder)):
        with safe_open(file, "numpy") as stored:
            for name in stored.keys():  # noqa: SIM118 (it is no dict)
                shape = tuple(stored.get_slice(name).get_shape())
                known = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if known is None:
                    raise BaseModelError(
                        f"{folder}: {quoted(name)} is no weight of a {config['model_type']} that "
                        "GGUF has a name for: `pricer export merged` takes any model"
                    )
                tensors[known] = Stored(file, name, shape)
    if config.get("tie_word_embeddings"):
        tensors.pop("output.weight", None)
    return dict(sorted(tensors.items()))


def _read(stored: Stored) -> NDArray[np.float32]:
    with safe_open(stored.file, "pt") as file:  # NumPy has no bfloat16
        values: NDArray[np.float32] = file.get_tensor(stored.name).float().numpy()
        return values


def _interleaved(
    values: NDArray[np.float32], name: str, config: dict[str, Any]
) -> NDArray[np.float32]:
    """Return a Llama's query and key rows in llama.cpp's order: the two halves of a head in turns.

    Rotary positions turn pairs of numbers; transformers has the first of each pair in the first
    half of a head, llama.cpp for this architecture beside the second.
    """
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config.get("num_key_value_heads") or config["num_attention_heads"],
    }.get(name.split(".")[-2])
    if config["model_type"] != "llama" or heads is None:
        return values
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return how positions are turned, in the words of transformers 5 or of earlier ones."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def _head_size(config: dict[str, Any]) -> int:
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(size)


def _frequencies(folder: Path, config: dict[str, Any]) -> NDArray[np.float32] | None:
    """Return by what each frequency of the positions is divided, (head / 2,), None for by nothing.

    As Llama 3.1 and later stretch them: `_compute_llama3_parameters` of transformers.
    """
    rope = _rope(config)
    if rope["rope_type"] == "default":
        return None
    if rope["rope_type"] != "llama3":
        raise BaseModelError(
            f"{folder}: positions of type {quoted(rope['rope_type'])} cannot be written as GGUF "
            "here, default and llama3 can: `pricer export merged` takes any"
        )
    size = _head_size(config)
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] / wavelengths
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clip(0, 1)
    return np.asarray(1 / ((1 - smooth) / rope["factor"] + smooth), np.float32)


def _add_settings(writer: gguf.GGUFWriter, config: dict[str, Any], kind: GgufType) -> None:
    heads = config["num_attention_heads"]
    writer.add_name("pricer")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    """Add the tokens, how they merge, and how text is split before; rows without one are unused."""
    described = _tokenizer(folder)
    model = described["model"]
    tokenizer = load_tokenizer(folder)
    tokens = [f"[UNUSED{number}]" for number in range(config["vocab_size"])]
    kinds = [TokenType.UNUSED] * len(tokens)
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for added in described.get("added_tokens", []):
        if added["id"] >= len(tokens):  # one that the model has no row for, and never says
            continue
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(folder, described))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    pairs = (one if isinstance(one, list) else one.split(" ") for one in model["merges"])
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    begin = tokenizer.bos_token_id
    if begin is not None:
        writer.add_bos_token_id(begin)
    writer.add_add_bos_token(begin is not None and tokenizer("x")["input_ids"][0] == begin)
    writer.add_add_eos_token(False)


def _tokenizer(folder: Path) -> dict[str, Any]:
    described = read_object(folder / "tokenizer.json")
    model = described.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise BaseModelError(
            f"{folder}: only byte-level BPE tokenizers can be written as GGUF here, as those of "
            "Llama 3, Qwen and SmolLM are: `pricer export merged` takes any"
        )
    return described


def _pre_tokenizer(folder: Path, described: dict[str, Any]) -> str:
    """Return llama.cpp's name of how a tokenizer splits text."""
    normalizer = (described.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # see `check_tokens`
        raise BaseModelError(
            f"{folder}: its tokenizer changes text first ({quoted(normalizer)}), which GGUF has no "
            "word for: `pricer export merged` takes any"
        )
    split = described.get("pre_tokenizer") or {}
    parts = split.get("pretokenizers", [split])
    name = PRE_TOKENIZERS.get(tuple(_kind_of_split(part) for part in parts))
    if name is None:
        raise BaseModelError(
            f"{folder}: its tokenizer splits text in a way that GGUF has no name for here "
            f"({quoted(json.dumps(split))}): `pricer export merged` takes any"
        )
    return name


def _kind_of_split(part: dict[str, Any]) -> str:
    match part.get("type"):
        case "ByteLevel" if not part.get("add_prefix_space"):
            return "bytes of words" if part.get("use_regex", True) else "bytes"
        case "Digits" if part.get("individual_digits"):
            return "single digits"
        case "Split" if part.get("behavior") == "Isolated" and not part.get("invert"):
            return str(part["pattern"].get("Regex"))
        case other:
            return f"{other}"
