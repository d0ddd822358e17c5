"""The base model: its tokenizer, its quantized weights, and the device and precision for both."""

import warnings
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from pricer.errors import BaseModelError, first_line, quoted
from pricer.hub import read_origin, weights_folder
from pricer.launch import local_rank
from pricer.model.attention import GROUPED, KINDS
from pricer.model.folder import CONFIG, check_quantized, read_config, refuse_adapter, weight_files
from pricer.params import Dtype, Quantization
from pricer.provenance import digest, folder_sha256

disable_progress_bar()
# peft reads a property of the model by the name it had before transformers 5.20
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")


DTYPES: dict[Dtype, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
# older GPUs lack what bitsandbytes' and torch's kernels use, or compute bfloat16 in software
OLDEST_CAPABILITY = (7, 0)
BFLOAT16_CAPABILITY = (8, 0)


def choose_device(requested: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`: a GPU where there is one.

    Raises:
        BaseModelError: a GPU is asked for that torch does not see, or that is too old.
    """
    gpus = torch.cuda.device_count()
    device = torch.device(("cuda" if gpus else "cpu") if requested == "auto" else requested)
    if device.type == "cpu":
        return device
    if (number := local_rank()) is not None:  # one of several processes
        device = torch.device("cuda", number)
    if (device.index or 0) >= gpus:
        raise BaseModelError(
            f"compute.device is {requested}, but torch sees {gpus} GPUs: set it to auto or cpu"
        )
    if (capability := torch.cuda.get_device_capability(device)) < OLDEST_CAPABILITY:
        raise BaseModelError(
            f"the GPU {device} has compute capability {_dotted(capability)}, below the "
            f"{_dotted(OLDEST_CAPABILITY)} that is needed: set compute.device to cpu"
        )
    return device


def choose_dtype(requested: Dtype, device: torch.device) -> torch.dtype:
    """Return the compute type for `auto` or a name.

    `auto` is bfloat16 on GPUs of compute capability 8 and up and on CPUs that multiply it
    themselves, float16 on older GPUs, float32 on other CPUs: there bfloat16 is converted number by
    number, and a training step took 30 times as long.

    Raises:
        BaseModelError: bfloat16 is asked for on a GPU that is too old for it.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability and capability < BFLOAT16_CAPABILITY:
        if requested == "auto":
            return torch.float16
        if requested == "bfloat16":
            raise BaseModelError(
                f"compute.dtype is bfloat16, but the GPU {device} has compute capability "
                f"{_dotted(capability)}, below {_dotted(BFLOAT16_CAPABILITY)}: "
                "set it to auto or float16"
            )
    if requested == "auto":
        fast = device.type == "cuda" or multiplies_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return DTYPES[requested]


def dtype_name(dtype: torch.dtype) -> Dtype:
    """Return what params call a compute type."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions for products of bfloat16 numbers."""
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def check_quantizes_on(device: torch.device) -> None:
    """Raise BaseModelError if bitsandbytes was built without support for a GPU that is to quantize.

    It would say so only when the first layer is quantized, in many lines.
    """
    from bitsandbytes.cextension import lib

    if device.type == "cuda" and not lib.compiled_with_cuda:
        raise BaseModelError(
            f"bitsandbytes {version('bitsandbytes')} has no CUDA support for torch's CUDA "
            f"{torch.version.cuda}: install a build that has (`python -m bitsandbytes` says more), "
            "or set quantization.load_in_4bit and load_in_8bit to false"
        )


def base_model_sha256(folder: Path) -> str:
    """Return one SHA-256 over a base model's configuration, tokenizer and weights.

    It is the same wherever the folder lies. Of a model whose weights stay in the Hub's cache, the
    hashes that were taken when it was fetched stand for them.
    """
    hashes = folder_sha256(folder)
    if hashes.pop("origin.json", None):
        hub = read_origin(folder).hub
        hashes |= {name: file.sha256 for name, file in hub.files.items()} if hub else {}
    return digest(hashes)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base model folder; padding falls back to the end-of-text token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer("Price is $")  # some broken settings are used only here
    except Exception as error:  # the library raises many kinds for a broken file
        raise BaseModelError(f"{folder}: no readable tokenizer ({first_line(error)})") from error
    if not tokenizer.is_fast:
        raise BaseModelError(f"{folder}: needs a fast tokenizer (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise BaseModelError(f"{folder}: its tokenizer has no token that ends a text (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_vocabulary(folder, tokenizer)
    return tokenizer


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BaseModelError if a token has no embedding: training would end at its first step."""
    if not (folder / CONFIG).is_file():  # a tokenizer alone
        return
    config = read_config(folder)
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    used = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    used |= {str(tokenizer.pad_token): tokenizer.pad_token_id}
    token, top = max(used.items(), key=lambda item: item[1])
    if rows and top >= rows:
        raise BaseModelError(
            f"{folder}: token {quoted(token)} of the tokenizer is number {top}, but the model has "
            f"embeddings for {rows} (vocab_size): they do not belong together"
        )


def load_base_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization,
    quant_storage: torch.dtype | None = None,
    dequantize: bool = True,
) -> PreTrainedModel:
    """Load a base model, quantized by bitsandbytes, in evaluation mode.

    Args:
        folder: a Hugging Face model folder, or one that names weights on the Hub.
        device: where it goes.
        dtype: of what is not quantized, and of the computation.
        quantization: of the linear layers (Dettmers et al. 2023, QLoRA, section 3).
        quant_storage: type that packed 4-bit weights are stored as, which FSDP wants to be that of
            the other weights; None for bytes.
        dequantize: on a CPU, see `dequantize_weights`.

    Raises:
        BaseModelError: the folder cannot be loaded, or not quantized on this device, or a weight
            is no finite number.
        HubError: the weights are no longer in the Hub's cache, and cannot be downloaded.
    """
    if not (folder / CONFIG).is_file():  # the library would ask the Hub for such a name
        raise BaseModelError(f"{folder}: no base model there (no {CONFIG}): dvc repro fetch")
    weights = weights_folder(folder)
    stored = read_config(weights)
    check_quantized(stored, quantization, str(folder))
    refuse_adapter(weights)
    weight_files(weights)
    config = None
    if quantization.bits < 16:
        check_quantizes_on(device)
        config = BitsAndBytesConfig(
            **quantization.model_dump(),
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=quant_storage,
        )
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=dtype,
            device_map={"": device},
            quantization_config=config,
            attn_implementation=_attention(stored.get("model_type"), device),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a strange configuration leads the library to
        raise BaseModelError(
            f"{folder}: cannot load the base model ({first_line(error)})"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:  # the library would make random ones
        raise BaseModelError(f"{folder}: no weights for {', '.join(missing[:3])} ({len(missing)})")
    _check_finite(weights, dtype, folder)
    keep_unpacked(model)
    if dequantize and device.type == "cpu":
        dequantize_weights(model)
    return model.eval()


def _attention(kind: str | None, device: torch.device) -> str:
    """Return the library's name of how attention is computed; `eager` is a model's own way."""
    if device.type != "cpu":
        return "sdpa"
    return GROUPED if kind in KINDS else "eager"


def _check_finite(weights: Path, dtype: torch.dtype, folder: Path) -> None:
    """Raise BaseModelError for a stored weight that is NaN, or infinite in `dtype`.

    As stored, since quantization may hide NaN. Reading 6 GB again takes about as many seconds as
    their bytes take to come from the disk; the comparison itself passes 7 GB a second on one core.
    """
    for file in sorted(weights.glob("model*.safetensors")):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (it is no dict)
                tensor = stored.get_tensor(name)
                if not _is_finite(tensor, dtype):
                    raise BaseModelError(
                        f"{folder}: {file.name} holds NaN, or more than {dtype_name(dtype)} can "
                        f"hold, in {name}: fetch the model again, or set compute.dtype to bfloat16 "
                        "or float32"
                    )


def _is_finite(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.itemsize == 1:  # torch compares no numbers of 8 bits
        tensor = tensor.float()
    ends = torch.stack(torch.aminmax(tensor))  # NaN, if there is any
    return bool(ends.to(dtype).isfinite().all())


def keep_unpacked(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for inference on CPUs with AVX512-BF16.

    The first evaluation would repack every layer, and nothing unpacks it when training goes on:
    from then on no gradient flows through the frozen layers. The packed path is less exact too.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def dequantize_weights(model: PreTrainedModel) -> None:
    """Hold 4-bit weights as the numbers that they stand for, if free memory is twice enough.

    All results are the same, and come sooner: a CPU multiplies no 4-bit weights, so bitsandbytes
    makes these numbers anew at every use.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    if 2 * weights * model.dtype.itemsize <= psutil.virtual_memory().available:
        replace_quantized_layers(model)


def replace_quantized_layers(model: PreTrainedModel) -> None:
    """Put a plain layer in the place of each 4- or 8-bit one, with the numbers it computes with."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit | Linear8bitLt)
    }
    for name, layer in layers.items():
        with torch.device("meta"):
            linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        weight = dequantize_bnb_weight(layer.weight, state=getattr(layer, "state", None))
        linear.weight = torch.nn.Parameter(weight.to(model.dtype), requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
