from pathlib import Path

import pytest

from pricer.errors import ParamsError
from pricer.params import read_params
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
        ("cutoff: ", "cutoff: 500 # "),
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
    assert "items.source must be 'catalog', 'files' or 'hub', got 'catalogue'" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"# nothing but a comment\n", "got an empty file"),
        (b"- 1\n- 2\n", "got list"),
        (b"items: {source: [\n", "is not valid YAML"),
        (b"items: 1\nitems: 2\n", "is not valid YAML"),
        (b"items: \xff\xfe\n", "is not UTF-8"),
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
        (("report_to: []", "report_to: [wandb, wandb]"), "report_to must name each tracker once"),
        (("device: auto", "device: gpu"), "must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (("ed-donner/items_lite", "../.."), "items.hub.dataset must be OWNER/NAME, got '../..'"),
    ],
)
def test_what_would_fail_hours_later_is_told_now(tmp_path, edit, told):
    assert told in problems(tmp_path, edit)


def test_contradictions_between_processes_and_the_rest_name_their_keys(tmp_path):
    two = ("processes: 1 ", "processes: 2 ")
    message = problems(tmp_path, two, ("auto_batch: false", "auto_batch: true"))
    assert message.endswith("train.auto_batch must be false when compute.processes is above 1")
    message = problems(tmp_path, two, ("select: last", "select: best"), ("y: ddp", "y: fsdp"))
    assert message.endswith("train.select must be last when compute.strategy is fsdp")
