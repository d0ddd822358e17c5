"""Real pipelines in temporary clones, with a tiny base model on disk."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, Served, build_once

TINY = {
    "items.catalog.train_size": 24,
    "items.catalog.validation_size": 12,
    "items.catalog.test_size": 8,
    "items.files.train_size": 24,
    "items.files.validation_size": 12,
    "items.files.test_size": 8,
    "model.source": "path",
    "lora.r": 4,
    "train.num_train_epochs": 4,
    "train.learning_rate": 0.05,
    "train.per_device_train_batch_size": 4,
    "train.logging_steps": 1,
    "train.eval_steps": 3,
    "train.save_steps": 4,
    "prompts.cutoff": 60,
    "prompts.max_length": 160,
    "baselines.trees": 10,
    "evaluate.bootstrap_resamples": 200,
}


DEADLINE_S = 240


@dataclass
class Project:
    """A clone of the project, and how its commands are run."""

    folder: Path
    environment: dict[str, str]

    def run(
        self, *command: str, ok: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; `ok` says whether it must succeed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            **options,
        )
        assert (done.returncode == 0) == ok, f"{command}: {done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, which Ctrl-C reaches.

        REAL_PYTHON="1" is for what is about the start itself: tests/fork_server.py.
        """
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a shell that runs the tests in the background has it ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def copy(self, folder: Path) -> "Project":
        """Return the same project once more, in `folder`."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return replace(self, folder=folder)

    def set(self, **values: object) -> None:
        """Change params, dots written as two underscores."""
        set_params(self.folder, {key.replace("__", "."): value for key, value in values.items()})

    def hashes(self, *folders: str) -> dict[str, str]:
        """Return the hash of every file below `folders`."""
        return {
            str(file.relative_to(self.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for folder in folders
            for file in sorted((self.folder / folder).rglob("*"))
            if file.is_file()
        }

    def command_of(self, stage: str) -> list[str]:
        """Return the command that `dvc repro` runs for a stage."""
        lock = YAML(typ="safe", pure=True).load((self.folder / "dvc.lock").read_text())
        return str(lock["stages"][stage]["cmd"]).split()


def knowing(served: Served, project: Project, token: str | None = None) -> Project:
    """Return the project for somebody who has `token` on the Hub that is served."""
    hub, home, commands = served
    path = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    return replace(project, environment=project.environment | hub.environment(home, token) | path)


def wait_until(
    happened: Callable[[], object], process: subprocess.Popen[str] | None = None
) -> None:
    """Look every few milliseconds; return as it has happened, or when `process` has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline
        if process is None:
            time.sleep(0.2)
            continue
        try:
            process.wait(timeout=0.005)
            return
        except subprocess.TimeoutExpired:
            pass


def set_params(folder: Path, values: dict[str, object]) -> None:
    yaml, file = YAML(), folder / "params.yaml"
    params = yaml.load(file.read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        section = params
        for name in sections:
            section = section[name]
        assert last in section, key
        section[last] = value
    with file.open("w") as stream:
        yaml.dump(params, stream)


@pytest.fixture(scope="session")
def reproduced(
    base_model_dir: Path, commands: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A clone of the working tree, set up to be tiny, after `dvc repro`, committed.

    Tests leave it as they found it. All test processes have copies of the same one.
    """
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
    }
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        environment |= {f"{name}_NAME": "tests", f"{name}_EMAIL": "tests@localhost"}

    def build(folder: Path) -> None:
        project = Project(folder, environment)
        clone(folder)
        set_params(folder, TINY | {"model.path": str(base_model_dir)})
        project.run("git", "init", "-q", "-b", "main")
        project.run("git", "add", "-A")
        project.run("git", "commit", "-qm", "clone")
        project.run("dvc", "repro")
        project.run("git", "add", "-A")
        project.run("git", "commit", "-qm", "reproduced")

    built = build_once(tmp_path_factory, "reproduced", build)
    return Project(built, environment).copy(tmp_path_factory.mktemp("project") / "reproduced")


def clone(folder: Path) -> None:
    """Copy what git knows of the working tree, or would not ignore, to `folder`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
