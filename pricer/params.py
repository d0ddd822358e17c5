"""The knobs of `params.yaml`: typed, documented, checked all at once."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pricer.errors import ParamsError

# What the question, the prefix and a price take in the tersest tokenizer in use (Llama-3).
MIN_PROMPT_OVERHEAD = 16

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]

REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"  # OWNER/NAME, as the Hub has it
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
# what a pattern allows, in words
ALLOWED = {f"^{REPOSITORY}$": "OWNER/NAME", DEVICE: "auto, cpu, cuda or cuda:N"}


class Section(BaseModel):
    """A group of knobs: unknown keys and silent type conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Catalog(Section):
    """The built-in product catalogue."""

    train_size: Count
    validation_size: Count
    test_size: Count
    seed: Seed
    noise: NonNegative
    """Standard deviation of the log of price over noise-free price."""


class Files(Section):
    """The user's own products."""

    path: str
    """One file to split by the sizes below, or a folder with one file a split."""
    train_size: Count
    validation_size: Count
    test_size: Count
    seed: Seed
    on_invalid: Literal["error", "drop"]
    """What a row without a usable text or price does: end the stage, or be counted and dropped."""


Repository = Annotated[str, Field(pattern=f"^{REPOSITORY}$")]


class HubItems(Section):
    """A data set on the Hugging Face Hub, with splits of its own."""

    dataset: Repository
    revision: Text
    """A commit hash, or a branch or tag, which becomes a commit when the products are fetched."""
    config: Text | None
    """Of a data set that has several."""
    train_size: Count | None
    validation_size: Count | None
    test_size: Count | None
    """The first usable products of each split; null takes all."""


class Items(Section):
    """Where products come from."""

    source: Literal["catalog", "files", "hub"]
    min_price: NonNegative
    max_price: Positive
    """USD; products outside min_price..max_price are counted and left out."""
    catalog: Catalog
    files: Files
    hub: HubItems

    @field_validator("max_price")
    @classmethod
    def _above_min_price(cls, value: float, info: ValidationInfo) -> float:
        min_price = info.data.get("min_price")
        if min_price is not None and value <= min_price:
            raise ValueError(f"must be above items.min_price ({min_price})")
        return value


class Pypi(Section):
    """A wheel on the package index that carries a GGUF file."""

    package: str
    version: str
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the wheel."""


class HubModel(Section):
    """A model on the Hugging Face Hub; code that comes with one is never run."""

    id: Repository
    revision: Text
    """A commit hash, or a branch or tag, which becomes a commit when the model is fetched."""


class Model(Section):
    """Where the base model comes from."""

    source: Literal["pypi", "path", "hub"]
    path: str | None
    """A Hugging Face model folder, for `source: path`."""
    pypi: Pypi
    hub: HubModel

    @field_validator("path")
    @classmethod
    def _given_for_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("source") == "path" and not value:
            raise ValueError("must name a model folder when model.source is path")
        return value


class Prompts(Section):
    """How products become prompts and completions."""

    cutoff: Count
    """Tokens of the summary that are kept."""
    max_length: Count
    """Tokens that prompt, completion and special tokens must fit."""
    round_prices: bool
    """Train on whole dollars."""

    @field_validator("max_length")
    @classmethod
    def _fits_cutoff(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("cutoff", 0) + MIN_PROMPT_OVERHEAD
        if value < least:
            raise ValueError(
                f"must be at least prompts.cutoff + {MIN_PROMPT_OVERHEAD} = {least} "
                "(question, prefix and price need room)"
            )
        return value


class Compute(Section):
    """What trains and predicts: device, precision, processes."""

    device: Annotated[str, Field(pattern=DEVICE)]
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    """auto is bfloat16 where the device multiplies it itself, else float16 on a GPU, float32."""
    processes: Count
    """In all; each has a GPU of its own where there are GPUs."""
    machines: Count
    strategy: Literal["ddp", "fsdp"]
    """Every process holds the whole model (ddp), or its part of it (fsdp)."""

    @field_validator("machines")
    @classmethod
    def _divides_processes(cls, value: int, info: ValidationInfo) -> int:
        processes = info.data.get("processes")
        if processes is not None and processes % value:
            raise ValueError(f"must divide compute.processes ({processes})")
        return value

    @field_validator("strategy")
    @classmethod
    def _parts_need_processes(cls, value: str, info: ValidationInfo) -> str:
        if value == "fsdp" and info.data.get("processes") == 1:
            raise ValueError("must be ddp when compute.processes is 1")
        return value


class Quantization(Section):
    """How the frozen base model is held."""

    load_in_4bit: bool
    load_in_8bit: bool
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    bnb_4bit_use_double_quant: bool

    @field_validator("load_in_8bit")
    @classmethod
    def _not_with_4bit(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("load_in_4bit"):
            raise ValueError("must be false when quantization.load_in_4bit is true")
        return value

    @property
    def bits(self) -> int:
        """Of a weight in a linear layer; 16 where it is not quantized."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else 16


class Lora(Section):
    """The adapter, in peft's own keys."""

    r: Count
    lora_alpha: Count
    lora_dropout: Share
    target_modules: list[str] | Literal["all-linear", "attention", "mlp"]
    use_rslora: bool
    use_dora: bool
    init_lora_weights: Literal[True, "gaussian", "olora"]
    """Those that work on quantized weights and without data; true is Kaiming uniform, B zero."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _some_modules(cls, value: Any) -> Any:
        names = isinstance(value, list) and value and all(n and isinstance(n, str) for n in value)
        if not names and value not in ("all-linear", "attention", "mlp"):
            raise ValueError(
                "must list at least one module name, or be all-linear, attention or mlp"
            )
        return value

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _works_on_quantized_weights(cls, value: Any) -> Any:
        if value is not True and value not in ("gaussian", "olora"):
            raise ValueError(
                "must be true, gaussian or olora "
                "(peft's others need weights that are not quantized, or data)"
            )
        return value


class Train(Section):
    """Supervised fine-tuning, in transformers' and trl's own keys."""

    num_train_epochs: Positive
    per_device_train_batch_size: Count
    per_device_eval_batch_size: Count
    gradient_accumulation_steps: Count
    auto_batch: bool
    """Out of memory: halve the batch, double the accumulation, and go on."""
    learning_rate: NonNegative
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    warmup_steps: NonNegative
    """Below 1: the share of all steps."""
    weight_decay: NonNegative
    max_grad_norm: Positive
    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
    ]
    train_sampling_strategy: Literal["random", "group_by_length"]
    activation_checkpointing: bool
    validation_size: Count
    """How many validation products the loss and the scores in dollars are taken on."""
    logging_steps: Count
    eval_steps: Count
    select: Literal["last", "best"]
    """The adapter that is kept: after the last step, or of the lowest validation MAE."""
    early_stopping_patience: Count | None
    """Stop after so many evaluations without a lower validation MAE."""
    save_strategy: Literal["no", "steps"]
    save_steps: Count
    save_total_limit: Count

    report_to: list[Literal["wandb", "tensorboard", "mlflow"]]
    """Trackers beside DVCLive."""
    run_name: Text | None
    """For the trackers; null: a name made of what shapes the run."""
    tags: list[Text]
    seed: Seed

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("must name each tracker once")
        return value


class Predict(Section):
    """Prediction on the test split, intervals calibrated on the validation split."""

    batch_size: Count
    point: Literal["median", "mean", "mode", "greedy"]
    max_price: Annotated[int, Field(ge=1, le=99_999)]
    max_dropped_mass: Share
    calibration_size: Count
    max_new_tokens: Count


class Baselines(Section):
    """Predictors without a language model."""

    ridge_alpha: Positive
    svd_components: Count
    trees: Count
    neighbors: Count
    seed: Seed


class Evaluate(Section):
    """Scores in dollars."""

    bootstrap_resamples: Count
    seed: Seed


class Params(Section):
    """All of `params.yaml`."""

    items: Items
    model: Model
    prompts: Prompts
    compute: Compute
    quantization: Quantization
    lora: Lora
    train: Train
    predict: Predict
    baselines: Baselines
    evaluate: Evaluate

    @field_validator("lora")
    @classmethod
    def _dora_reads_the_weights(cls, value: Lora, info: ValidationInfo) -> Lora:
        quantization = info.data.get("quantization")
        if value.use_dora and quantization and quantization.load_in_8bit:
            raise PydanticCustomError(
                "contradiction",
                "lora.use_dora must be false when quantization.load_in_8bit is true "
                "(peft cannot train DoRA on 8-bit weights): load in 4 bits, or in neither",
            )
        return value

    @field_validator("train")
    @classmethod
    def _goes_with_processes(cls, value: Train, info: ValidationInfo) -> Train:
        compute, problem = info.data.get("compute"), None
        if compute and compute.processes > 1 and value.auto_batch:
            problem = "train.auto_batch must be false when compute.processes is above 1"
        elif compute and compute.strategy == "fsdp" and value.select == "best":
            problem = "train.select must be last when compute.strategy is fsdp"
        if problem:
            raise PydanticCustomError("contradiction", problem)
        return value


def read_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `params.yaml`.

    Raises ParamsError with every problem found, each with its key, value and what is allowed.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"{path} not found in {Path.cwd()}: run from the project's root, "
            f"or bring it back with `git checkout {path}`"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(values, dict):
        got = "an empty file" if values is None else type(values).__name__
        raise ParamsError(
            f"{path} must map sections to knobs ({', '.join(Params.model_fields)}), got {got}: "
            f"`git checkout {path}` brings the default back"
        )
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
        if len(problems) == 1:
            raise ParamsError(f"{path}: {problems[0]}") from None
        raise ParamsError(f"{path}: {len(problems)} problems: " + "; ".join(problems)) from None


def flat_params(sections: dict[str, Section]) -> dict[str, Any]:
    """Return every param of some sections by its dotted key."""
    flat: dict[str, Any] = {}
    nested = [(f"{name}.", section.model_dump()) for name, section in sections.items()]
    while nested:
        prefix, section = nested.pop()
        for key, value in section.items():
            if isinstance(value, dict):
                nested.append((f"{prefix}{key}.", value))
            else:
                flat[f"{prefix}{key}"] = value
    return dict(sorted(flat.items()))


def _yaml_problem(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{where}"


def _problem(detail: Any) -> str:
    """Turn one pydantic error into `key must be ..., got ...`."""
    key = ".".join(str(part) for part in detail["loc"])
    match detail["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            known = _known_keys(detail["loc"][:-1])
            close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            return f"{key} is not a known key ({hint})"
        case "contradiction":
            return str(detail["msg"])
        case "value_error":
            allowed = str(detail["ctx"]["error"])
        case "string_pattern_mismatch":
            pattern = detail["ctx"]["pattern"]
            allowed = f"must be {ALLOWED.get(pattern, f'of the form {pattern}')}"
        case "string_too_short":
            allowed = "must not be empty"
        case "model_type":
            allowed = "must be a group of knobs"
        case _:
            allowed = detail["msg"].replace("Input should", "must")
    return f"{key} {allowed}, got {detail['input']!r}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Params
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
