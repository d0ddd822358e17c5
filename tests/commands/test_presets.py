"""`pricer preset`: whole sets of knobs in place of the present ones, comments kept."""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pricer.commands.presets import (
    check_preset,
    difference,
    preset_files,
    preset_params,
    preset_text,
    with_preset,
)
from pricer.errors import ParamsError
from pricer.params import flat_params, read_params
from tests.conftest import ROOT

DEMO = (ROOT / "pricer/presets/demo.yaml").read_text()
LITE = preset_text(ROOT / "pricer/presets", "lite")


def values(text: str):
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "pricer/presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def pricer(commands: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `pricer ARGUMENTS` in a folder."""

    def run(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(commands / "pricer"), *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            **options,
        )

    return run


def test_the_committed_params_are_the_demo_preset():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "pricer/presets/demo.yaml").read_bytes()


NAMES = ["demo", "full", "full_evidence", "gemma", "lite", "lite_evidence", "own", "small"]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_allowed_and_holds_only_what_differs_from_the_defaults(name):
    assert list(preset_files(ROOT / "pricer/presets")) == NAMES
    check_preset(ROOT / "pricer/presets", name)


def test_the_reference_recipes_runs():
    """What its authors published, knob by knob."""
    lite, full = (preset_params(ROOT / "pricer/presets", name) for name in ("lite", "full"))
    for run in (lite, full):
        assert (run.items.source, run.model.source) == ("hub", "hub")
        assert run.model.hub.id == "meta-llama/Llama-3.2-3B"
        assert (run.prompts.cutoff, run.prompts.max_length) == (110, 128)
        assert run.lora.lora_alpha == 2 * run.lora.r and run.lora.lora_dropout == 0.1
        train = run.train
        assert train.learning_rate == 1e-4 and train.warmup_steps == 0.01
        assert train.gradient_accumulation_steps == 1 and train.max_grad_norm == 0.3
        assert train.optim == "paged_adamw_32bit" and train.weight_decay == 0.001
        assert train.save_steps == train.eval_steps and train.save_total_limit == 10
        assert train.report_to == ["wandb"] and train.seed == 42
    assert lite.items.hub.dataset == "ed-donner/items_lite"
    assert full.items.hub.dataset == "ed-donner/items_full"
    assert (lite.lora.r, lite.lora.target_modules) == (32, "attention")
    assert (full.lora.r, full.lora.target_modules) == (256, "all-linear")
    shapes = ("num_train_epochs", "per_device_train_batch_size", "validation_size")
    shapes += ("logging_steps", "eval_steps")
    assert [getattr(lite.train, key) for key in shapes] == [1, 32, 500, 5, 100]
    assert [getattr(full.train, key) for key in shapes] == [3, 256, 1000, 10, 200]


@pytest.mark.parametrize("name", ["lite", "full"])
def test_the_siblings_tell_evidence_and_differ_in_nothing_else(name):
    recipe, sibling = (
        flat_params(dict(preset_params(ROOT / "pricer/presets", one)))
        for one in (name, f"{name}_evidence")
    )
    differ = {knob: value for knob, value in sibling.items() if recipe[knob] != value}
    assert differ == {
        "evidence.neighbors": 3,
        "evidence.words": True,
        "evidence.ridge_alpha": 1.0,
        "prompts.max_length": 152,
    }
    assert (recipe["evidence.neighbors"], recipe["evidence.words"]) == (0, False)


def test_values_change_and_comments_stay():
    lite = with_preset(DEMO, LITE)
    assert values(lite) == values(LITE)
    comments = [line.split("#", 1)[1].strip() for line in DEMO.splitlines() if "#" in line]
    assert len(comments) > 20 and all(comment in lite for comment in comments)
    changed = [
        line for line in difference(DEMO, lite, "params.yaml").splitlines() if line[0] in "+-"
    ]
    assert "-  cutoff: 96                 # tokens of the summary that are kept" in changed
    assert "+  cutoff: 110                # tokens of the summary that are kept" in changed
    assert not [line for line in changed if "bootstrap_resamples" in line]


@pytest.mark.parametrize("name", NAMES[1:])
def test_there_and_back_again_gives_the_same_bytes(name):
    there = with_preset(DEMO, preset_text(ROOT / "pricer/presets", name))
    assert there != DEMO and with_preset(there, DEMO) == DEMO


def test_older_params_get_the_knobs_they_lack_and_lose_what_is_gone():
    older = DEMO.replace("  max_grad_norm: 0.3\n", "").replace("lora:\n", "lora:\n  gone: 1\n")
    assert values(with_preset(older, LITE)) == values(LITE)
    assert values(with_preset("", LITE)) == values(LITE)


@pytest.mark.parametrize(
    "nobody", [{"stdin": subprocess.DEVNULL}, {"preexec_fn": partial(os.close, 0)}]
)
def test_where_nobody_can_be_asked_the_diff_is_all_there_is(project, pricer, nobody):
    before = (project / "params.yaml").read_text()
    failed = pricer(project, "preset", "lite", **nobody)
    assert failed.returncode == 1 and "+  r: 32\n" in failed.stdout
    assert failed.stderr == "pricer: nothing written: add --yes to write this to params.yaml\n"
    assert (project / "params.yaml").read_text() == before


def test_yes_writes_what_the_diff_shows(project, pricer):
    done = pricer(project, "preset", "lite", "--yes")
    assert "+  r: 32\n" in done.stdout and done.returncode == 0, done.stderr
    assert read_params(project / "params.yaml") == preset_params(project / "presets", "lite")
    again = pricer(project, "preset", "lite")
    assert (again.stdout, again.stderr) == ("", "params.yaml is preset lite already\n")
    pricer(project, "preset", "demo", "--yes")
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_it_asks(project, answer, pricer):
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = pricer(project, "preset", "lite", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert "Write this to params.yaml?" in done.stderr and "+  r: 32\n" in done.stdout
    assert (read_params(project / "params.yaml").lora.r == 32) == (answer == "y")
    assert (done.returncode, "nothing written" in done.stderr) == ((0, False), (1, True))[
        answer == "n"
    ]


@pytest.mark.parametrize(
    ("arguments", "params", "says"),
    [
        (
            ["nowhere"],
            DEMO,
            "there is no preset 'nowhere' (known: demo, full, full_evidence, gemma, lite, "
            "lite_evidence, own, small)",
        ),
        ([], DEMO, "give either the name of a preset or --check"),
        (["lite"], "lora: [1\n", "(line 2, column 1): mend it, or `git checkout params.yaml`"),
    ],
)
def test_what_cannot_be_done_is_one_line(project, arguments, params, says, pricer):
    (project / "params.yaml").write_text(params)
    failed = pricer(project, "preset", *arguments)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert says in failed.stderr and (project / "params.yaml").read_text() == params


@pytest.mark.parametrize(
    ("file", "edits", "says"),
    [
        (
            "demo",
            [("  max_length: 144 ", "  # "), ("  trees: 200", "  trees: 0")],
            "presets/demo.yaml: 2 problems: prompts.max_length is missing; baselines.trees must",
        ),
        (
            "full",
            [("  cutoff: 110", "  cutof: 110"), ("  r: 256", "  r: 0")],
            "presets/full.yaml: 2 problems: prompts.cutof is not a known key (did you mean cutoff?)"
            "; lora.r must",
        ),
        (
            "full",
            [("lora:", "predict: 5\nlora:"), ("predict:\n  calibration_size: 1000\n", "")],
            "presets/full.yaml: predict must be a group of knobs, got 5",
        ),
    ],
)
def test_check_names_what_is_wrong_with_a_preset(project, file, edits, says, pricer):
    done = pricer(project, "preset", "--check")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(NAMES), done.stderr
    path = project / f"presets/{file}.yaml"
    text = path.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    failed = pricer(project, "preset", "--check")
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert says in failed.stderr
    refused = pricer(project, "preset", "full", "--yes")
    assert refused.returncode == 1
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_check_refuses_what_an_overlay_repeats_of_the_defaults(project, pricer):
    file = project / "presets/full.yaml"
    file.write_text(file.read_text().replace("  r: 256\n", "  r: 16\n  use_dora: false\n"))
    failed = pricer(project, "preset", "--check")
    assert failed.returncode == 1 and failed.stderr == (
        "pricer: presets/full.yaml: lora.r repeats the default, 16; "
        "lora.use_dora repeats the default, False: take it out\n"
    )


@pytest.mark.parametrize("text", ["", "- 1\n"])
def test_an_overlay_without_knobs_is_told(project, text, pricer):
    (project / "presets/full.yaml").write_text(text)
    failed = pricer(project, "preset", "full", "--yes")
    assert failed.returncode == 1 and failed.stderr == (
        "pricer: presets/full.yaml must map sections to the knobs that differ from the defaults\n"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [("items: [\n", "demo.yaml is not valid YAML"), ("- 1\n", "must map sections")],
)
def test_a_projects_own_defaults_may_be_broken_too(tmp_path, text, says):
    (tmp_path / "demo.yaml").write_text(text)
    with pytest.raises(ParamsError, match=says):
        preset_text(tmp_path, "lite")


def test_without_params_a_preset_is_written_with_the_comments_of_the_defaults(project, pricer):
    (project / "params.yaml").unlink()
    done = pricer(project, "preset", "lite", "--yes")
    assert done.returncode == 0, done.stderr
    assert (project / "params.yaml").read_text() == LITE
    assert "  cutoff: 110                # tokens of the summary that are kept\n" in LITE


def test_a_project_has_the_librarys_presets_and_may_have_more(tmp_path, pricer):
    assert pricer(tmp_path, "preset", "--check").stdout.count("is there and allowed") == len(NAMES)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/long.yaml").write_text("train:\n  num_train_epochs: 3\n")
    done = pricer(tmp_path, "preset", "long", "--yes")
    assert done.returncode == 0, done.stderr
    assert read_params(tmp_path / "params.yaml").train.num_train_epochs == 3


def test_params_that_are_no_text_are_told(tmp_path, pricer):
    shutil.copytree(ROOT / "pricer/presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_bytes(b"items: caf\xe9\n")
    done = pricer(tmp_path, "preset", "lite", "--yes")
    assert done.returncode == 1
    assert done.stderr == "pricer: params.yaml is not UTF-8 text (byte 10)\n"
    assert (tmp_path / "params.yaml").read_bytes() == b"items: caf\xe9\n"


def test_an_env_file_that_is_no_text_is_told(tmp_path, pricer, commands):
    (tmp_path / ".env").write_bytes(b"HF_TOKEN=caf\xe9\n")
    done = pricer(tmp_path, "preset", "--check")
    assert done.returncode == 1 and ".env is not UTF-8 text (byte 12)" in done.stderr
    assert "Traceback" not in done.stderr
    stage = [str(commands / "python"), "-m", "pricer.stages", "train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(stage, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and ".env is not" in done.stderr


def test_no_command_shows_the_help(tmp_path, pricer):
    done = pricer(tmp_path)
    assert done.returncode == 1 and "Usage" in done.stdout + done.stderr
    assert "pricer: \n" not in done.stderr
