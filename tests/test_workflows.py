"""The workflows for GitHub: sound by a checker, harmless, and of commands that there are."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

CI, USERS = ROOT / ".github/workflows/ci.yml", ROOT / "examples/github/pricer.yml"
CHECKER = Path(sys.executable).parent / "jactionlint"


def workflow(file: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(file.read_text())


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(file)["jobs"].values() for step in job["steps"]]


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    command = [str(CHECKER), "--no-color", "--no-online", "--strict-exit", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("file", [CI, USERS], ids=lambda file: file.name)
def test_the_checker_finds_nothing(file):
    """jactionlint: actionlint's checks and zizmor's, and shellcheck's of each script."""
    done = checked(file)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize(
    ("text", "instead", "rule"),
    [
        ('"$ALLOWED"', "${{ github.head_ref }}", "template-injection"),
        ("outcome }}", "outcom }}", "undefined-property"),
        ('NUMBER/comments"', "NUMBER/comments", "shellcheck"),
        ("  pull_request:\n", "  pull_request_target:\n", "dangerous-triggers"),
    ],
)
def test_the_checker_would_find(text, instead, rule, tmp_path):
    damaged = tmp_path / "pricer.yml"
    damaged.write_text(USERS.read_text().replace(text, instead, 1))
    done = checked(damaged)
    assert done.returncode == 1 and f"[{rule}" in done.stdout, done.stdout


@pytest.mark.parametrize("file", [CI, USERS], ids=lambda file: file.name)
def test_others_actions_are_pinned_and_no_script_is_made_of_what_others_wrote(file):
    assert workflow(file)["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in file.read_text()
    for step in steps(file):
        assert re.fullmatch(
            r"actions/[\w/-]+@[0-9a-f]{40}", step.get("uses", "actions/a@" + 40 * "0")
        )
        assert "${{" not in step.get("run", "")
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_only_the_job_that_runs_nothing_of_the_pull_request_may_write():
    jobs = workflow(USERS)["jobs"]
    assert "permissions" not in jobs["judge"]
    assert jobs["comment"]["permissions"] == {"pull-requests": "write"}
    used = [step["uses"].split("@")[0] for step in jobs["comment"]["steps"] if "uses" in step]
    assert used == ["actions/download-artifact"]
    # one from a fork has no token that may write, and the gate is another job's
    assert "head.repo.full_name == github.repository" in jobs["comment"]["if"]


def test_ci_runs_what_contributing_says_on_every_python_that_is_supported():
    page, makefile = (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / "Makefile").read_text()
    made = [step["run"] for step in steps(CI) if step.get("run", "").startswith("make ")]
    assert made == ["make lint", "make test-fast", "make test"]
    for command in made:
        assert f"\n{command} " in page
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    jobs = workflow(CI)["jobs"]
    for name in ("fast", "suite"):
        assert jobs[name]["strategy"]["matrix"]["python"] == supported
    # the same as in .ci/run, which says why
    [install] = [step["run"] for step in steps(CI) if "apt-get" in step.get("run", "")]
    assert install.endswith("--no-install-recommends chromium postgresql")
    assert "--no-install-recommends chromium postgresql" in (ROOT / ".ci/run").read_text()
