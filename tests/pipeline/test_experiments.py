"""Experiments through real `dvc` commands: queued, run by two workers, shown, compared, applied."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from itertools import product

import pytest
from ruamel.yaml import YAML

from pricer.params import read_params
from tests.conftest import ROOT

from .conftest import set_params, wait_until


def ran(output: str) -> set[str]:
    """Stages whose command ran, from what DVC printed."""
    return set(re.findall(r"Running stage '([\w@]+)'", output))


def not_changed(output: str) -> set[str]:
    return set(re.findall(r"Stage '([\w@]+)' didn't change", output))


def queue(project) -> dict[str, str]:
    """State by name of what was queued."""
    rows = project.run("dvc", "queue", "status").stdout.splitlines()
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    return {row[1]: row[-1] for row in cells if re.fullmatch("[0-9a-f]{7}", row[0])}


@pytest.fixture(scope="module")
def swept(reproduced, tmp_path_factory):
    """A clone in which two workers have run two experiments of one training, and their names."""
    folder = tmp_path_factory.mktemp("experiments") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    project = replace(reproduced, folder=folder)
    before = project.hashes("data", "metrics")
    # what no other test has predicted: DVC would take it from its cache
    project.run("dvc", "exp", "run", "--queue", "-S", "lora.r=2", "-S", "predict.point=mean,greedy")
    names = list(queue(project))
    assert len(names) == 2
    project.run("dvc", "queue", "start", "--jobs", "2")
    try:
        wait_until(lambda: not set(queue(project).values()) & {"Queued", "Running"})
        logs = {name: project.run("dvc", "queue", "logs", name).stdout for name in names}
        assert set(queue(project).values()) == {"Success"}, logs
    finally:
        project.run("dvc", "queue", "stop")
    # they ran in folders of their own
    assert project.hashes("data", "metrics") == before
    assert project.run("git", "status", "--porcelain").stdout == ""
    return project, logs


def test_workers_run_what_depends_on_the_knobs_and_nothing_before(swept):
    project, logs = swept
    for log in logs.values():
        assert {"fetch@items", "fetch@model", "prompts", "baselines"} <= not_changed(log)
        assert {"predict_base", "predict"} <= ran(log)


def test_two_workers_train_the_same_adapter_once(swept):
    """The one that comes later waits and takes over, or finds the first one's outputs."""
    project, logs = swept
    trained = [log for log in logs.values() if "starting afresh" in log]
    assert len(trained) == 1, logs
    locks = [
        YAML(typ="safe", pure=True).load(
            project.run("git", "show", f"{commit(project, name)}:dvc.lock").stdout
        )
        for name in logs
    ]
    one, other = (lock["stages"]["train"]["outs"] for lock in locks)
    assert one == other


def commit(project, name: str) -> str:
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    [ref] = [ref for ref in refs if ref.endswith(f"/{name}")]
    return ref


def test_experiments_are_shown_with_what_was_changed(swept):
    project, logs = swept
    rows = list(csv.DictReader(project.run("dvc", "exp", "show", "--csv").stdout.splitlines()))
    found = {row["Experiment"]: row for row in rows if row["Experiment"] in logs}
    assert {row["predict.point"] for row in found.values()} == {"mean", "greedy"}
    assert {float(row["lora.r"]) for row in found.values()} == {2}
    assert all(float(row["mae"]) > 0 for row in found.values())


def test_a_sweep_is_ranked(swept, tmp_path):
    project, logs = swept
    rows = json.loads(project.run("pricer", "sweep", "show", "--format", "json").stdout)
    assert {row["name"] for row in rows} == {*logs, "main"}
    assert [row["mae"] for row in rows] == sorted(row["mae"] for row in rows)
    assert {"lora.r": "4", "predict.point": "median"} in [row["params"] for row in rows]
    assert rows[0]["less_first"] is None
    for row in rows[1:]:
        assert row["n"] == row["shared"] == 8
        assert row["less_first"]["mae"] == pytest.approx(row["mae"] - rows[0]["mae"])
    chart = tmp_path / "sweep.png"
    text = project.run("pricer", "sweep", "show", "--chart", str(chart)).stdout
    assert text.splitlines()[1].startswith(rows[0]["name"]) and "predict.point" in text
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "|:--" in project.run("pricer", "sweep", "show", "--format", "markdown").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "'nowhere' is no git revision"),
        (["HEAD~1"], "no finished experiment began at HEAD~1 (none at all): `dvc exp run --queue"),
        (["--chart", "sweep.jpg"], "--chart sweep.jpg must end in .png"),
    ],
)
def test_what_cannot_be_shown_is_one_line(swept, arguments, says):
    failed = swept[0].run("pricer", "sweep", "show", *arguments, ok=False)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert says in failed.stderr


def test_an_experiment_is_applied_compared_and_needs_no_run(swept):
    project, logs = swept
    name = next(iter(logs))
    project.run("dvc", "exp", "apply", name)
    try:
        knobs = {
            row["Param"]: (row["HEAD"], row["workspace"])
            for row in table(project.run("dvc", "params", "diff", "--md").stdout)
        }
        assert knobs["lora.r"] == ("4", "2") and knobs["predict.point"][0] == "median"
        scores = {
            row["Metric"] for row in table(project.run("dvc", "metrics", "diff", "--md").stdout)
        }
        assert {"trainable_parameters", "validation_loss"} <= scores
        plots = json.loads(project.run("dvc", "plots", "diff", "--json").stdout)["data"]
        assert {*plots["Training loss"][0]["revisions"]} == {"HEAD", "workspace"}
        assert not ran(project.run("dvc", "repro").stdout)
        # on top of it, only what is changed runs
        again = project.run("dvc", "exp", "run", "-n", "again", "-S", "evaluate.seed=7").stdout
        project.run("dvc", "exp", "remove", "again")
        assert ran(again) == {"evaluate"}
        project.run("git", "checkout", "-q", ".")
        # from the commit on, the training it shares with the others has no step left to do, and
        # their predictions are in the run cache
        shared = project.run("dvc", "exp", "run", "-n", "shared", "-S", "lora.r=2")
        project.run("dvc", "exp", "remove", "shared")
        assert "\n0 steps in " in shared.stdout and "resuming from step 24" in shared.stdout
        assert not {"prompts", "predict_base"} & ran(shared.stdout)
    finally:
        project.run("git", "checkout", "-q", ".")
        project.run("dvc", "checkout")


def table(markdown: str) -> list[dict[str, str]]:
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(header, row, strict=True)) for row in rows]


def tuning_commands() -> list[list[str]]:
    """Every command in the code blocks of docs/tuning.md, loops of the shell written out."""
    text = (ROOT / "docs/tuning.md").read_text()
    commands = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            line = line.split(" #")[0].strip()
            if loop := re.fullmatch(r"for (\w+) in (.+?); do (.+); done", line):
                variable, values, body = loop.groups()
                for value in values.split():
                    double = re.sub(
                        rf"\$\(\((\d+) \* {variable}\)\)",
                        lambda m, value=value: str(int(m[1]) * int(value)),
                        body,
                    )
                    commands.append(shlex.split(double.replace(f"${variable}", value)))
            elif line:
                commands.append(shlex.split(line))
    return commands


QUEUED = [command for command in tuning_commands() if "--queue" in command]


@pytest.fixture(scope="module")
def queueing(reproduced, tmp_path_factory):
    folder = tmp_path_factory.mktemp("queueing") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    return replace(reproduced, folder=folder)


@pytest.mark.parametrize("command", QUEUED, ids=" ".join)
def test_the_tuning_pages_sweeps_are_queued_and_each_of_their_values_is_allowed(
    queueing, tmp_path, command
):
    assert command[:4] == ["dvc", "exp", "run", "--queue"] and set(command[4::2]) == {"-S"}
    knobs = [setting.split("=") for setting in command[5::2]]
    grid = list(product(*(values.split(",") for _, values in knobs)))
    for values in grid:
        shutil.copy(ROOT / "params.yaml", tmp_path)
        yaml = YAML(typ="safe", pure=True)
        keys = [key for key, _ in knobs]
        set_params(tmp_path, dict(zip(keys, map(yaml.load, values), strict=True)))
        read_params(tmp_path / "params.yaml")
    try:
        queueing.run(*command)
        assert len(queue(queueing)) == len(grid)
    finally:
        queueing.run("dvc", "queue", "remove", "--queued")


def test_the_tuning_page_covers_the_four_priorities_and_its_other_commands_run(swept):
    project, _ = swept
    knobs = {setting.split("=")[0] for command in QUEUED for setting in command[5::2]}
    assert {"prompts.cutoff", "prompts.round_prices", "items.hub.train_size"} <= knobs
    assert {"lora.r", "lora.lora_alpha", "lora.target_modules"} <= knobs
    assert {"train.learning_rate", "train.num_train_epochs"} <= knobs
    assert {"lora.lora_dropout", "train.weight_decay"} <= knobs
    others = [command for command in tuning_commands() if command not in QUEUED]
    shown = [command for command in others if command[:2] == ["pricer", "sweep"]]
    assert len(shown) >= 2
    for command in shown:
        project.run(*command)
    (project.folder / "sweep.png").unlink()
