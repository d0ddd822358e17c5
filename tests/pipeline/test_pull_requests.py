"""The workflow that users copy: each of its commands, on pull requests that change a knob."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

from .conftest import Project

WORKFLOW = YAML(typ="safe", pure=True).load((ROOT / "examples/github/pricer.yml").read_text())
# what GitHub puts in the place of expressions
CONTEXT = {
    "github.base_ref": "main",
    "github.token": "a token",
    "github.event.pull_request.number": "7",
}
# what would install for minutes or ask GitHub leaves a note of what it was told
STUB = """#!/bin/sh
printf '%s\\n' "$0 $*" >> "$TOLD"
case "$*" in *--paginate*) printf '%s' "$EARLIER";; esac
"""


def environment_of(*levels: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a workflow, a job and a step together."""
    return {
        name: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: CONTEXT[found[1]], value)
        for level in levels
        for name, value in level.get("env", {}).items()
    }


def run_job(name: str, project: Project) -> tuple[str | None, int]:
    """Run what a job's steps run, in order; return the step that failed, and its exit code."""
    job = WORKFLOW["jobs"][name]
    for step in job["steps"]:
        if "run" in step:
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=project.folder,
                env=project.environment | environment_of(WORKFLOW, job, step),
                capture_output=True,
                text=True,
            )
            if done.returncode:
                return f"{step['name']}: {done.stderr}", done.returncode
    return None, 0


@pytest.fixture(scope="module")
def runner(
    reproduced: Project, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, Project]:
    """The project with a remote named origin, and what a job starts with: a clone, DVC's cache."""
    folder = tmp_path_factory.mktemp("runner")
    (folder / "bin").mkdir()
    for command in ("pip", "gh"):
        (folder / "bin" / command).write_text(STUB)
        (folder / "bin" / command).chmod(0o755)
    environment = reproduced.environment | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{reproduced.environment['PATH']}",
        "TOLD": str(folder / "told"),
        "EARLIER": "",
        "GITHUB_REPOSITORY": "somebody/prices",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    project = replace(reproduced.copy(folder / "project"), environment=environment)
    project.run("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin"))
    project.run("git", "remote", "add", "origin", str(folder / "origin"))
    project.run("git", "push", "-q", "origin", "main")
    project.run("git", "clone", "-q", str(folder / "origin"), str(folder / "clone"))
    shutil.copytree(project.folder / ".dvc/cache", folder / "clone/.dvc/cache")
    return project, replace(project, folder=folder / "clone")


def propose(clone: Project, branch: str, point: str) -> None:
    """Commit a changed knob, and nothing that it changes, to a branch that begins at main."""
    clone.run("git", "fetch", "-q", "origin")
    clone.run("git", "checkout", "-qf", "-b", branch, "origin/main")
    clone.set(predict__point=point)
    clone.run("git", "commit", "-qam", f"{branch}: the {point}")


def test_a_worse_run_fails_and_a_better_one_passes_and_both_are_told(
    runner: tuple[Project, Project],
) -> None:
    project, clone = runner
    summary, told = (Path(clone.environment[name]) for name in ("GITHUB_STEP_SUMMARY", "TOLD"))

    propose(clone, "worse", "mode")
    step, code = run_job("judge", clone)
    assert step and step.startswith("Fail if it is worse: ") and code == 2
    assert "above A's, more than the 2.0% allowed" in step
    comment = (clone.folder / "comment.md").read_text()
    assert summary.read_text() == comment
    assert comment.startswith("<!-- pricer -->\n### ") and "A: origin/main" in comment
    assert re.search(r"^\| MAE +\| +\$[\d.]+ \| +\$[\d.]+ \| +\+\$", comment, re.MULTILINE)
    assert re.search(r"^\| metrics/evaluate.json +\| mae +\|", comment, re.MULTILINE)
    # what is in the cache was not made again
    assert "train.json" not in comment and not (clone.folder / ".checkpoints").exists()
    assert told.read_text().startswith(f"{told.parent}/bin/pip install --quiet")
    assert (
        ROOT / "constraints.txt"
    ).exists() and "--constraint constraints.txt" in told.read_text()

    # it is merged all the same, with its results; what comes next goes back
    clone.run("git", "add", "-A")
    clone.run("git", "reset", "-q", "comment.md")
    clone.run("git", "commit", "-qm", "results")
    clone.run("git", "push", "-q", "origin", "HEAD:main")
    propose(clone, "better", "median")
    assert run_job("judge", clone) == (None, 0)
    comment = (clone.folder / "comment.md").read_text()
    assert re.search(r"^\| MAE +\| +\$[\d.]+ \| +\$[\d.]+ \| +-\$", comment, re.MULTILINE)
    assert project.folder.exists()


def test_the_comment_is_written_once_and_then_anew(runner: tuple[Project, Project]) -> None:
    _, clone = runner
    told = Path(clone.environment["TOLD"])
    told.unlink(missing_ok=True)
    assert run_job("comment", clone) == (None, 0)
    clone.environment["EARLIER"] = "41\n42\n"
    assert run_job("comment", clone) == (None, 0)
    asked = [
        line.partition("/bin/gh ")[2] for line in told.read_text().splitlines() if "gh api" in line
    ]
    comments = "repos/somebody/prices/issues/7/comments"
    assert [line for line in asked if "--paginate" not in line] == [
        f"api --silent --method POST {comments} -F body=@comment.md",
        "api --silent --method PATCH repos/somebody/prices/issues/comments/42 -F body=@comment.md",
    ]
