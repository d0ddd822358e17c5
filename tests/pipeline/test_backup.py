"""Machines that are lost while they train: others end with the same bytes: `pytest --losses 20`."""

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import boto3
import pytest

from tests.pipeline.conftest import Project, knowing, wait_until
from tests.pipeline.test_resume import SAVED, forget, kill
from tests.s3_server import BUCKET, s3_server

RESULTS = ("data/adapter", "metrics/train")


@dataclass
class Elsewhere:
    """A backup: its address, the files in it, and how it is emptied."""

    url: str
    files: Callable[[], Iterable[str]]
    empty: Callable[[], None]

    def newest(self) -> int:
        """The step of the newest complete checkpoint, 0 without any."""
        marks = (re.search(r"/checkpoint-(\d+)/complete.json$", file) for file in self.files())
        return max((int(mark[1]) for mark in marks if mark), default=0)


@pytest.fixture
def on_s3(reproduced):
    with s3_server() as environment:
        bucket = boto3.resource("s3", endpoint_url=environment["AWS_ENDPOINT_URL"]).Bucket(BUCKET)
        project = replace(reproduced, environment=reproduced.environment | environment)
        yield (
            project,
            Elsewhere(
                f"s3://{BUCKET}/pricer",
                lambda: [one.key for one in bucket.objects.all()],
                lambda: bucket.objects.all().delete(),
            ),
        )


@pytest.fixture
def on_the_hub(reproduced, served):
    name = "tests/backups"
    hub, *_ = served
    hub.tokens["hf_secret"] = {"write"}

    def files() -> list[str]:
        repo = hub.repos.get(("model", name))
        return list(repo.commits[repo.branches["main"]]) if repo else []

    backup = Elsewhere(f"hf://{name}", files, hub.repos.clear)
    return knowing(served, reproduced, "hf_secret"), backup


@pytest.fixture(params=["on_s3", "on_the_hub"])
def backed_up(request, monkeypatch) -> Iterable[tuple[Project, Elsewhere]]:
    """The reproduced project with a backup, put back afterwards."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "not-a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    project, elsewhere = request.getfixturevalue(request.param)
    project.set(train__backup=elsewhere.url)
    yield project, elsewhere
    project.run("git", "checkout", "params.yaml", "metrics")
    project.run("dvc", "checkout", "--force")
    forget(project)


def lose(project: Project) -> None:
    """Leave nothing of what training has written here."""
    forget(project)
    for folder in RESULTS:
        shutil.rmtree(project.folder / folder, ignore_errors=True)


@pytest.mark.timeout(7200)
def test_a_lost_machine_costs_no_more_than_the_steps_since(backed_up, pytestconfig):
    """Lost at a random moment, or as soon as a random checkpoint is elsewhere."""
    project, elsewhere = backed_up
    losses, rng = pytestconfig.getoption("--losses"), random.Random(0)
    expected = project.hashes(*RESULTS)
    command = project.command_of("train")
    lose(project)
    started = time.perf_counter()
    project.run(*command)
    whole_s = time.perf_counter() - started
    assert project.hashes(*RESULTS) == expected
    assert elsewhere.newest() == max(SAVED)
    resumed = 0
    for number in range(losses):
        elsewhere.empty()
        lose(project)
        process = project.start(*command)
        if number % 2:
            try:
                process.wait(timeout=rng.uniform(0, whole_s))
            except subprocess.TimeoutExpired:
                pass
        else:
            step = rng.choice(SAVED)
            wait_until(lambda step=step: elsewhere.newest() >= step, process)
        kill(process)
        lose(project)
        left = elsewhere.newest()
        done = project.run(*command)
        resumed += bool(left)
        assert (f"resuming from step {left} " in done.stdout) == bool(left), number
        assert done.stderr.count("train.backup") == 0, done.stderr
        assert project.hashes(*RESULTS) == expected, number
    assert resumed >= losses // 2
    print(f"{losses} machines lost, {resumed} with a checkpoint elsewhere, all adapters identical")


def test_dvc_repro_on_another_machine_goes_on(backed_up, tmp_path):
    """Another folder, with git's files and DVC's, and no checkpoint."""
    project, elsewhere = backed_up
    expected = project.hashes(*RESULTS)
    other = project.copy(tmp_path / "other")
    lose(project)
    process = project.start(*project.command_of("train"))
    wait_until(lambda: elsewhere.newest() >= 12, process)
    kill(process)
    forget(other)
    done = other.run("dvc", "repro", "train")
    assert re.search(r"checkpoint-\d+ comes from .*\n.*resuming from step", done.stdout)
    assert other.hashes(*RESULTS) == expected


def test_an_unreachable_backup_is_one_line_and_the_same_adapter(reproduced):
    expected = reproduced.hashes(*RESULTS)
    forget(reproduced)
    reproduced.set(train__backup=f"file://{reproduced.folder}/params.yaml/no-folder")
    try:
        done = reproduced.run(*reproduced.command_of("train"))
        assert done.stderr.count("train.backup") == 1
        assert "training goes on without" in done.stderr or "starts from what" in done.stderr
        assert reproduced.hashes(*RESULTS) == expected
    finally:
        reproduced.run("git", "checkout", "params.yaml", "metrics")
        reproduced.run("dvc", "checkout", "--force")
        forget(reproduced)


def test_a_library_that_is_missing_is_told_before_any_work(reproduced):
    reproduced.set(train__backup="gs://bucket/folder")
    try:
        done = reproduced.run(*reproduced.command_of("train"), ok=False)
        assert "train: train.backup gs:// needs gcsfs, not installed: run" in done.stderr
    finally:
        reproduced.run("git", "checkout", "params.yaml")
