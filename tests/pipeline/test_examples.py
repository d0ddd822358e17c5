"""The launchers in examples/: what can be known of them without the service that they are for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

from .conftest import Project
from .test_ray import content, make_products

EXAMPLES = ROOT / "examples"
SKY = YAML(typ="safe", pure=True).load((EXAMPLES / "skypilot.yaml").read_text())


def test_slurm_prices_in_an_array_of_jobs_and_goes_on_when_put_back(
    reproduced: Project, tmp_path: Path
) -> None:
    project = reproduced.copy(tmp_path / "project")
    (project.folder / ".venv/bin").mkdir(parents=True)
    (project.folder / ".venv/bin/activate").touch()
    products = make_products(tmp_path / "products.parquet", 17)
    for number in ("2", "1", "1"):  # the last one was put back
        project.environment["SLURM_ARRAY_TASK_ID"] = number
        project.run(
            str(EXAMPLES / "slurm.sh"), "predict", str(products), str(tmp_path / "out"), "2"
        )
    assert list(content(tmp_path / "out")) == [f"products.parquet-00000{n}.parquet" for n in (0, 1)]
    assert list(pd.read_parquet(tmp_path / "out")["id"]) == list(range(128 * 17 - 28))
    assert "usage: slurm.sh" in project.run(str(EXAMPLES / "slurm.sh"), ok=False).stderr


def test_hugging_face_jobs_are_asked_for_with_options_that_there_are(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "hf").write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {asked}\n')
    (tmp_path / "hf").chmod(0o755)
    told = {"CLONE_URL": "https://host/x.git", "ADAPTER": "me/a", "BACKUP": "hf://me/b"}
    environment = os.environ | told | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([EXAMPLES / "hf_jobs.sh"], env=environment, check=True)
    arguments = asked.read_text().split("\0")
    help_ = subprocess.run(
        [Path(sys.executable).parent / "hf", "jobs", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options = {one for one in arguments if one.startswith("--")}
    assert options and all(re.search(rf"{option}\b", help_) for option in options)
    assert arguments[arguments.index("--flavor") + 1] in help_
    assert "BACKUP=hf://me/b" in arguments and arguments[-4:-2] == ["bash", "-c"]
    environment.pop("ADAPTER")
    assert subprocess.run([EXAMPLES / "hf_jobs.sh"], env=environment).returncode != 0


@pytest.mark.parametrize(
    "script",
    [
        SKY["setup"],
        SKY["run"],
        (EXAMPLES / "hf_jobs.sh").read_text(),
        (EXAMPLES / "slurm.sh").read_text(),
    ],
)
def test_what_launchers_run_is_a_script_of_commands_that_there_are(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for command in re.findall(r"^\s*pricer (\w+)", script, re.MULTILINE):
        subprocess.run(
            [Path(sys.executable).parent / "pricer", command, "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    knobs = (ROOT / "params.yaml").read_text()
    for knob in re.findall(r"-S (?:\w+\.)+(\w+)=", script):
        assert f"\n  {knob}:" in knobs


def test_skypilot_is_told_every_variable_that_its_scripts_use() -> None:
    used = set(re.findall(r"\$\{?([A-Z_]+)", SKY["setup"] + SKY["run"]))
    assert used <= set(SKY["envs"]) | set(SKY["secrets"])
