import re
from pathlib import Path

import pytest

from pricer.errors import ParamsError
from pricer.params import ALLOWED, MIN_CALIBRATION, Params, read_params
from pricer.prices.distribution import smallest_calibration
from pricer.prices.predictions import INTERVALS
from tests.conftest import ROOT

DEFAULT = (ROOT / "params.yaml").read_text()


def problems(tmp_path: Path, *edits: tuple[str, str]) -> str:
    """The message for `params.yaml` with text replaced."""
    text = DEFAULT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError) as error:
        read_params(file)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_committed_params_are_valid():
    assert read_params(ROOT / "params.yaml").lora.r >= 1


def test_a_value_out_of_range_names_key_value_and_what_is_allowed(tmp_path):
    message = problems(tmp_path, ("  r: ", "  r: 0 # "))
    assert "lora.r must be greater than or equal to 1, got 0" in message


def test_an_unknown_key_suggests_the_known_one(tmp_path):
    message = problems(tmp_path, ("  learning_rate:", "  learning_rte:"))
    assert "train.learning_rte is not a known key (did you mean learning_rate?)" in message
    assert "train.learning_rate is missing" in message


def test_every_problem_is_told_at_once(tmp_path):
    message = problems(
        tmp_path,
        ("  r: ", "  r: 0 # "),
        ("cutoff: 96 ", "cutoff: 500 "),
        ("min_price: 0.5", "min_price: 5000"),
        ("load_in_8bit: false", "load_in_8bit: true"),
        ("target_modules:", "target_modules: [] #"),
        ("per_device_train_batch_size: ", "per_device_train_batch_size: 0 # "),
        ("source: pypi", "source: path"),
        ("optim: adamw_torch", "optim: adamw_tortch"),
    )
    for key in (
        "lora.r ",
        "prompts.max_length must be at least prompts.cutoff + 16 = 516",
        "items.max_price must be above items.min_price (5000.0)",
        "quantization.load_in_8bit must be false",
        "lora.target_modules must list at least one module name",
        "train.per_device_train_batch_size ",
        "model.path must name a model folder",
        "train.optim must be",
    ):
        assert key in message
    assert message.startswith(f"{tmp_path}/params.yaml: 8 problems: ")


@pytest.mark.parametrize(
    ("neighbors", "words", "told"), [(3, "true", 18), (1, "false", 6), (0, "true", 6)]
)
def test_evidence_needs_room_in_the_prompt(tmp_path, neighbors, words, told):
    edits = [
        ("  neighbors: ", f"  neighbors: {neighbors} # "),
        ("  words: ", f"  words: {words} #"),
    ]
    least = 96 + 16 + told
    assert (
        f"prompts.max_length must be at least prompts.cutoff + 16 + {told} = {least} with what "
        f"evidence.neighbors and evidence.words tell, got {least - 1}"
    ) in problems(tmp_path, *edits, ("  max_length: ", f"  max_length: {least - 1} # "))


def test_a_contradiction_between_sections_names_both_knobs(tmp_path):
    message = problems(
        tmp_path,
        ("use_dora: false", "use_dora: true"),
        ("load_in_4bit: true", "load_in_4bit: false"),
        ("load_in_8bit: false", "load_in_8bit: true"),
    )
    assert message.startswith(
        f"{tmp_path}/params.yaml: lora.use_dora must be false when quantization.load_in_8bit is "
    )


@pytest.mark.parametrize("kind", ["pissa", "loftq", "eva", "orthogonal", "false", "1"])
def test_a_start_that_does_not_work_on_quantized_weights_is_refused(tmp_path, kind):
    message = problems(tmp_path, ("init_lora_weights: true", f"init_lora_weights: {kind}"))
    assert "lora.init_lora_weights must be true, gaussian or olora (peft's others need" in message


def test_text_where_a_number_belongs_is_an_error(tmp_path):
    assert "lora.r must be a valid integer, got '32'" in problems(
        tmp_path, ("  r: ", "  r: '32' #")
    )


def test_scientific_notation_without_a_point_is_a_number(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(DEFAULT.replace("learning_rate: ", "learning_rate: 1e-4 # "))
    assert read_params(file).train.learning_rate == 1e-4


def test_unknown_sources_name_the_known_ones(tmp_path):
    message = problems(tmp_path, ("source: catalog", "source: catalogue"))
    assert "items.source must be 'catalog', 'files', 'raw' or 'hub', got 'catalogue'" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"# nothing but a comment\n", "got an empty file"),
        (b"- 1\n- 2\n", "got list"),
        (b"items: {source: [\n", "is not valid YAML"),
        (b"items: 1\nitems: 2\n", "is not valid YAML"),
        (b"items: \xff\xfe\n", "is not UTF-8"),
        (b"a: &a [1, 1]\nb: [*a, *a]\n", r"has an alias \(\*a\): write the value out \(line 2\)"),
        (b"items: !!python/object:os.system x\n", "has a tag .*python/object.*line 1"),
        (b"items: " + b"[" * 2000, "has more than 20 lists or groups in one another .line 1"),
        (b"- " * 2000, "has more than 20 lists or groups in one another .line 1"),
        (b"items: " + b"7" * 5000, "holds no value: Exceeds the limit"),
        (b"items: 2026-02-31\n", "holds no value: day is out of range"),
        (b"#" * 200_000, "is longer than 131,072 characters"),
    ],
)
def test_broken_files_end_in_one_line(tmp_path, content, message):
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(ParamsError, match=message) as error:
        read_params(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=f"params.yaml not found in {tmp_path}"):
        read_params()


@pytest.mark.parametrize(
    "edit, told",
    [
        (
            ("strategy: ddp", "strategy: fsdp"),
            "compute.strategy must be ddp when compute.processes is 1, got 'fsdp'",
        ),
        (("tags: []", "tags: ['']"), "train.tags.0 must not be empty, got ''"),
        (("backup: null", "backup: /somewhere"), "train.backup must begin with one of az://, file"),
        (("backup: null", "backup: https://x.example"), "train.backup must begin with one of az"),
        (("backup: null", "backup: hf://name"), "train.backup must be hf://OWNER/NAME"),
        (("backup: null", "backup: hf://a/b/c"), "train.backup must be hf://OWNER/NAME"),
        (("backup: null", "backup: file://folder"), "train.backup must be file:/// and a folder"),
        (("backup: null", "backup: s3://"), "train.backup must be s3://, a place and a folder"),
        (
            ("backup: null", "backup: s3://a?b=c"),
            "train.backup must be s3://, a place and a folder",
        ),
        (("report_to: []", "report_to: [wandb, wandb]"), "report_to must name each tracker once"),
        (("train_size: 2000", "train_size: 3000000000"), "must be less than or equal to 1000000"),
        (("resamples: 10000", "resamples: 3000000000"), "must be less than or equal to 1000000"),
        (("epochs: 1", "epochs: 1e300"), "epochs must be less than or equal to 10000"),
        (("trees: 200", f"trees: {'7' * 400}"), "got a number of more than 60 digits"),
        (("noise: 0.1", "noise: 400"), "items.catalog.noise must be less than or equal to 10"),
        (("max_price: 999 ", "max_price: 50000000 "), "must be less than or equal to 99999"),
        (("max_price: 999.49", "max_price: 50000000"), "got 999: dearer products would be capped"),
        (("device: auto", "device: gpu"), "must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (("ed-donner/items_lite", "../.."), "items.hub.dataset must be OWNER/NAME, got '../..'"),
    ],
)
def test_what_would_fail_hours_later_is_told_now(tmp_path, edit, told):
    assert told in problems(tmp_path, edit)


@pytest.mark.parametrize(
    "place", ["s3://KEY:hidden@bucket", f"s3://{'k' * 90}:hidden@bucket", "hf://hidden@hub/a/b"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path, place):
    message = problems(tmp_path, ("backup: null", f"backup: {place}"))
    assert "train.backup must hold neither user nor password" in message
    assert "hidden" not in message and "KEY" not in message


def test_contradictions_between_processes_and_the_rest_name_their_keys(tmp_path):
    two = ("processes: 1 ", "processes: 2 ")
    message = problems(tmp_path, two, ("auto_batch: false", "auto_batch: true"))
    assert message.endswith("train.auto_batch must be false when compute.processes is above 1")
    message = problems(tmp_path, two, ("select: last", "select: best"), ("y: ddp", "y: fsdp"))
    assert message.endswith("train.select must be last when compute.strategy is fsdp")


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        (
            [("max_price: 999.49", "max_price: 1500")],
            "predict.max_price must be at least items.max_price (1500) rounded, got 999: "
            "dearer products would be capped",
        ),
        (
            [("validation_size: 200", "validation_size: 8")],
            "items.catalog.validation_size must be at least 9, got 8: "
            "predict.calibration_size takes its products from there, and an interval of 90% needs "
            "as many",
        ),
        (
            [("select: last", "select: best"), ("size: 48 ", "size: 192 ")],
            "items.catalog.validation_size must be at least 201, got 200: predict.calibration_size "
            "takes its products after the 192 (train.validation_size) that the adapter is selected "
            "on, and an interval of 90% needs 9",
        ),
        (
            [("early_stopping_patience: null", "early_stopping_patience: 2"), (": 48 ", ": 199 ")],
            "items.catalog.validation_size must be at least 208, got 200: predict.calibration_size "
            "takes its products after the 199 (train.validation_size) that the adapter is selected "
            "on, and an interval of 90% needs 9",
        ),
        (
            [("calibration_size: 200 ", "calibration_size: 8 ")],
            "predict.calibration_size must be greater than or equal to 9, got 8",
        ),
        (
            [("logging_steps: 5", "logging_steps: 251"), ("strategy: steps", "strategy: no")],
            "train.logging_steps must be at most 250, the steps that items.catalog.train_size "
            "makes, when train.save_strategy is no, got 251: no training loss would be logged",
        ),
        (
            [("warmup_steps: 0.05", "warmup_steps: 300")],
            "train.warmup_steps must be at most 250, the steps that items.catalog.train_size "
            "makes, or below 1 for a share of them, got 300: train.learning_rate would never be "
            "reached",
        ),
        (
            [("device: auto", "device: cpu"), ("optim: adamw_torch_fused", "optim: adamw_8bit")],
            "train.optim must be adamw_torch or adamw_torch_fused when compute.device is cpu, "
            "got 'adamw_8bit': the others need a GPU",
        ),
        (
            [("device: auto", "device: cpu"), ("ses: 1 ", "ses: 2 "), ("y: ddp", "y: fsdp")],
            "compute.strategy must be ddp when compute.device is cpu, got 'fsdp'",
        ),
    ],
)
def test_contradictions_name_both_knobs_and_the_cure(tmp_path, edits, told):
    assert problems(tmp_path, *edits) == f"{tmp_path}/params.yaml: {told}"


@pytest.mark.parametrize(
    "edits",
    [
        [("max_price: 999.49", "max_price: 1500"), ("max_price: 999 ", "max_price: 1500 ")],
        [("logging_steps: 5", "logging_steps: 175"), ("strategy: steps", "strategy: no")],
        [("select: last", "select: best"), ("size: 48 ", "size: 191 ")],
        [("size: 48 ", "size: 200 ")],  # nothing is selected on them
        [("logging_steps: 5", "logging_steps: 1000")],  # logged with the last checkpoint
        [("warmup_steps: 0.05", "warmup_steps: 300"), ("epochs: 1", "epochs: 2")],
        [("warmup_steps: 0.05", "warmup_steps: 300"), ("type: cosine", "type: constant")],
        # how many there are is in the data alone
        [("source: catalog", "source: hub"), ("warmup_steps: 0.05", "warmup_steps: 9999")],
        [
            ("source: catalog", "source: files"),
            ("path: examples/products.jsonl", "path: examples"),
            ("  validation_size: 10\n", "  validation_size: 1\n"),
        ],
        # what the source does not choose says nothing
        [("  validation_size: 10\n", "  validation_size: 1\n")],
    ],
)
def test_what_goes_together_is_allowed(tmp_path, monkeypatch, edits):
    monkeypatch.chdir(ROOT)
    text = DEFAULT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "params.yaml").write_text(text)
    read_params(tmp_path / "params.yaml")


def test_contradictions_are_told_with_the_problems_of_single_knobs(tmp_path):
    message = problems(
        tmp_path,
        ("max_price: 999.49", "max_price: 1500"),
        ("  max_new_tokens: 8", "  max_new_tokens: 0"),
        ("  seed: 42", "  seed: -1"),
        ("warmup_steps: 0.05", "warmup_steps: 300"),
        ("epochs: 1", "epochs: 0"),  # how many steps there are nobody knows
        ("use_dora: false", "use_dora: true"),
        ("load_in_4bit: true", "load_in_4bit: false"),
        ("load_in_8bit: false", "load_in_8bit: true"),
        ("nf4 ", "nf5 "),
    )
    assert message.startswith(f"{tmp_path}/params.yaml: 6 problems: ")
    for told in (
        "predict.max_price must be at least items.max_price (1500) rounded",
        "predict.max_new_tokens must",
        "items.catalog.seed must",
        "train.num_train_epochs must",
        "lora.use_dora must be false when quantization.load_in_8bit is true",
        "quantization.bnb_4bit_quant_type must",
    ):
        assert told in message


def test_the_fewest_products_to_calibrate_on_are_those_of_the_widest_interval():
    assert smallest_calibration(max(INTERVALS) / 100) == MIN_CALIBRATION


def test_a_range_that_is_no_wheel_hash_is_told_in_words(tmp_path):
    message = problems(tmp_path, ("sha256: bcc", "sha256: xyz"))
    assert "model.pypi.sha256 must be 64 hexadecimal digits, got 'xyz" in message


def choices(knob: str) -> set[str]:
    """The values that the type of a knob lists, as YAML has them."""
    schema = section = Params.model_json_schema()
    for key in knob.split("."):
        section = section["properties"][key]
        if "$ref" in section:
            section = schema["$defs"][section["$ref"].rpartition("/")[2]]
    if "pattern" in section:
        return set(re.split(", | or ", ALLOWED[section["pattern"]]))
    listed = [choice["enum"] for choice in section.get("anyOf", [section]) if "enum" in choice]
    return {str(value).lower() if value is True else value for value in listed[0]}


OVERLAYS = ("lite", "full", "lite_evidence", "full_evidence")
PRESETS = [f"pricer/presets/{name}.yaml" for name in OVERLAYS]


@pytest.mark.parametrize("file", ["params.yaml", *PRESETS])
def test_comments_list_the_values_that_the_types_allow(file):
    path, lists = [], 0
    for line in (ROOT / file).read_text().splitlines():
        match = re.match(r"( *)(\w+):[^#]*(?:# (.*))?$", line)
        if not match:
            continue
        indent, key, comment = match.groups()
        path[len(indent) // 2 :] = [key]
        if comment and " | " in comment:
            named = [part.split()[0].rstrip(":,") for part in comment.split(" | ")]
            assert set(named) == choices(".".join(path)), line
            lists += 1
    assert lists >= 10 or file != "params.yaml"
