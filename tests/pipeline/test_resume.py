"""Training runs that are killed end with the bytes of one that is not: `pytest --kills 60`."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from .conftest import wait_until

SAVED = range(4, 25, 4)  # steps with a checkpoint, in the tiny project


@pytest.fixture
def kills(request) -> int:
    return request.config.getoption("--kills")


def wait_for_checkpoint(project, process: subprocess.Popen, step: int) -> None:
    """Return as a checkpoint begins to be written, or when the run has ended."""
    wait_until(lambda: [*project.folder.glob(f".checkpoints/*/checkpoint-{step}")], process)


def kill(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # the run was faster
        pass
    process.communicate()


def forget(project) -> None:
    shutil.rmtree(project.folder / ".checkpoints", ignore_errors=True)


@pytest.mark.timeout(7200)
def test_a_killed_run_ends_with_the_same_adapter(reproduced, kills):
    """At a random moment, or in the middle of writing a checkpoint; now and then twice."""
    expected = reproduced.hashes("data/adapter", "metrics/train")
    command, rng = reproduced.command_of("train"), random.Random(0)
    forget(reproduced)
    started = time.perf_counter()
    reproduced.run(*command)
    whole_s = time.perf_counter() - started
    assert reproduced.hashes("data/adapter", "metrics/train") == expected
    resumed = 0
    for number in range(kills):
        forget(reproduced)
        for _ in range(1 + number % 2):
            process = reproduced.start(*command)
            if number % 3 == 0:
                try:
                    process.wait(timeout=rng.uniform(0, whole_s))
                except subprocess.TimeoutExpired:
                    pass
            else:
                wait_for_checkpoint(reproduced, process, rng.choice(SAVED))
            kill(process)
        done = reproduced.run(*command)
        resumed += "resuming from step" in done.stdout
        assert reproduced.hashes("data/adapter", "metrics/train") == expected, number
    assert resumed >= kills // 3
    print(f"{kills} runs killed, {resumed} resumed from a checkpoint, all adapters identical")
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_dvc_repro_goes_on_where_it_was_killed(reproduced):
    before = reproduced.hashes("data", "metrics")
    reproduced.set(lora__r=2)
    try:
        process = reproduced.start("dvc", "repro", "train")
        wait_for_checkpoint(reproduced, process, 12)
        kill(process)
        done = reproduced.run("dvc", "repro", "train")
        assert "resuming from step" in done.stdout
        resumed = reproduced.hashes("data/adapter", "metrics/train")
        forget(reproduced)
        afresh = reproduced.run("dvc", "repro", "--force", "--single-item", "train")
        assert "starting afresh (no checkpoint of this very run" in afresh.stdout
        assert reproduced.hashes("data/adapter", "metrics/train") == resumed
    finally:
        reproduced.run("git", "checkout", "params.yaml", "dvc.lock", "metrics")
        reproduced.run("dvc", "checkout")
    assert reproduced.hashes("data", "metrics") == before


def test_a_checkpoint_of_other_params_is_not_used(reproduced):
    forget(reproduced)
    command = reproduced.command_of("train")
    reproduced.run(*command)
    reproduced.set(train__learning_rate=0.04)
    try:
        assert "starting afresh" in reproduced.run(*command).stdout
    finally:
        reproduced.run("git", "checkout", "params.yaml", "metrics")
        reproduced.run("dvc", "checkout", "--force")  # what no `dvc repro` has made


def test_the_checkpoints_of_a_temporary_experiment_outlive_it(reproduced):
    forget(reproduced)
    change = ["--temp", "-S", "train.learning_rate=0.03"]
    process = reproduced.start("dvc", "exp", "run", *change)
    wait_for_checkpoint(reproduced, process, 12)
    kill(process)
    done = reproduced.run("dvc", "exp", "run", *change)
    try:
        assert "resuming from step" in done.stdout
    finally:
        reproduced.run("dvc", "exp", "remove", "--all")
        shutil.rmtree(reproduced.folder / ".dvc/tmp/exps/standalone")  # the killed one's folder
    assert reproduced.run("git", "status", "--porcelain").stdout == ""
