"""Two machines, here two folders and two addresses, train in step; one is lost, both go on."""

import re
import socket
import subprocess

import psutil
import pytest

from tests.pipeline.conftest import Project
from tests.pipeline.test_resume import forget, kill, wait_for_checkpoint

RESULTS = ("data/adapter", "metrics/train")
ENDS_WITHIN_S = 60


@pytest.fixture
def machines(reproduced, tmp_path) -> list[Project]:
    """Two copies of the project that share nothing, each to run a process."""
    both = [reproduced.copy(tmp_path / name) for name in ("first", "second")]
    for machine in both:
        forget(machine)
        machine.set(compute__processes=2, compute__machines=2)
    return both


def start(machines: list[Project], *command: str) -> list[subprocess.Popen]:
    """Start the same command on both."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        machine.start(*command, MACHINE_RANK=str(number), **meeting)
        for number, machine in enumerate(machines)
    ]


def lose(machine: Project, process: subprocess.Popen) -> None:
    """Kill whatever runs on a machine: processes of a stage are not in the group of its command."""
    for one in psutil.process_iter():
        try:
            if one.cwd() == str(machine.folder):
                one.kill()
        except psutil.Error:  # it has ended, or is nobody's
            pass
    process.communicate()


def ended(process: subprocess.Popen, timeout: float = 240) -> tuple[int, str, str]:
    try:
        out, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return process.returncode, out, error


def run(machines: list[Project], *command: str) -> list[str]:
    """Run a command on both to the end, and return what they print."""
    done = [ended(process) for process in start(machines, *command)]
    assert [code for code, _, _ in done] == [0, 0], done
    return [out for _, out, _ in done]


def test_each_machine_ends_with_the_same_results_however_often_one_is_lost(machines):
    train = machines[0].command_of("train")
    run(machines, *train)
    expected = machines[0].hashes(*RESULTS)
    assert machines[1].hashes(*RESULTS) == expected
    for lost in (0, 1):
        for machine in machines:
            forget(machine)
        processes = start(machines, *train)
        wait_for_checkpoint(machines[0], processes[0], 12)
        lose(machines[lost], processes[lost])
        code, _, error = ended(processes[1 - lost], ENDS_WITHIN_S)
        assert code == 1 and "Traceback" not in error, error
        assert "lost touch with another process" in error, error
        out = run(machines, *train)
        assert "resuming from step" in out[0]
        for machine in machines:
            found = machine.hashes(*RESULTS)
            assert not {name for name in expected if found.get(name) != expected[name]}


def test_machines_that_would_train_different_adapters_are_told(machines):
    machines[1].set(train__save_steps=1)  # which shapes no adapter, but when all of them meet
    done = [ended(process) for process in start(machines, *machines[0].command_of("train"))]
    for number, (code, _, error) in enumerate(done):
        told = f"machine {number} would train another adapter than machine {1 - number}, or save"
        assert code == 1 and told in error and "Traceback" not in error, error


def test_machines_predict_alike_too(machines):
    predict = machines[0].command_of("predict")
    expected = machines[0].hashes("data/predictions", "data/serving")
    run(machines, *predict)
    for machine in machines:
        assert machine.hashes("data/predictions", "data/serving") == expected


def test_who_is_who_has_to_be_said(machines):
    for environment in ({}, {"MACHINE_RANK": "2", "MASTER_ADDR": "x"}, {"MACHINE_RANK": "0"}):
        process = machines[0].start(*machines[0].command_of("train"), **environment)
        code, _, error = ended(process)
        assert code == 1 and "compute.machines is 2: set MACHINE_RANK (0 to 1, another on" in error
    process = machines[0].start(
        *machines[0].command_of("train"), MACHINE_RANK="1", MASTER_ADDR="no.such.host"
    )
    code, _, error = ended(process)
    assert code == 1 and "no way to MASTER_ADDR 'no.such.host'" in error


def test_what_the_first_machine_has_lost_too_comes_from_the_backup(machines, tmp_path):
    train = machines[0].command_of("train")
    for machine in machines:
        machine.set(train__backup=f"file://{tmp_path}/elsewhere")
    run(machines, *train)
    expected = machines[0].hashes(*RESULTS)
    for machine in machines:
        forget(machine)
    out = run(machines, *train)
    assert re.search(r"checkpoint-12 comes from .*\n.*resuming from step 12 ", out[0])
    for machine in machines:
        assert machine.hashes(*RESULTS) == expected
