"""Checkpoints beyond this machine: complete or absent, the newest, and never trusted."""

import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
import threading

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pricer.errors import ParamsError
from pricer.training import backup as module
from pricer.training.backup import SENDING, Backup, Remote, stage
from pricer.training.checkpoints import MANIFEST, find_start, is_complete, keep_newest, seal
from pricer.training.checks import check_backup
from tests.conftest import ROOT
from tests.hub_server import Fault, hub_server
from tests.s3_server import BUCKET, s3_server

NUMBERS = "rng_state.pth"
NAMES = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "trainer_state.json")
NAMES += (NUMBERS,)
RUN = "f00dfeedf00dfeed"

# huggingface_hub's own use of what its HTTP client is about to drop, when it uploads a file
# s3fs leaves its connections to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning", "ignore:unclosed:ResourceWarning"
)


def write(run, step: int):
    """A sealed checkpoint as the trainer makes it, with files that no other machine needs."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"lora": torch.full((1,), step)}, folder / "adapter_model.safetensors")
    torch.save({"state": {0: torch.zeros(2)}, "step": step}, folder / "optimizer.pt")
    torch.save({"python": random.getstate(), "numpy": np.random.get_state()}, folder / NUMBERS)
    for name in ("adapter_config.json", "trainer_state.json"):
        (folder / name).write_text(json.dumps({"global_step": step}))
    for name in ("README.md", "training_args.bin"):
        (folder / name).write_text("of no use elsewhere")
    seal(folder)
    return folder


@pytest.fixture(scope="module")
def s3():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def hub():
    with hub_server() as server:
        server.tokens["hf_secret"] = {"write"}
        yield server


@pytest.fixture(params=["file", "s3"])
def folder_url(request, tmp_path, monkeypatch):
    """An empty folder for backups where a file is written at a time."""
    return url_of(request.param, request, tmp_path, monkeypatch)


@pytest.fixture(params=["file", "s3", "hf"])
def place(request, tmp_path, monkeypatch):
    """An empty place for backups, by its address."""
    return url_of(request.param, request, tmp_path, monkeypatch)


def url_of(scheme: str, request, tmp_path, monkeypatch) -> str:
    if scheme == "file":
        return f"file://{tmp_path}/elsewhere"
    if scheme == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
        return f"s3://{BUCKET}/{tmp_path.name}"
    use_hub(request.getfixturevalue("hub").url, monkeypatch)
    return "hf://tests/backups"


def use_hub(url: str, monkeypatch) -> None:
    constants = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,  # the storage protocol that the loopback Hub does not have
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    huggingface_hub.HfFileSystem.clear_instance_cache()


def sent(backup: Backup, *steps: int) -> None:
    """Have checkpoints sent, one after the other."""
    for step in steps:
        backup.send(write(backup.run, step))
        backup.close()


def test_another_machine_goes_on_from_the_newest(place, tmp_path, capsys):
    sent(Backup(place, tmp_path / "a" / RUN, keep=2), 5, 10, 15)
    there = tmp_path / "b" / RUN
    Backup(place, there, keep=2).restore()
    checkpoint, how = find_start(there)
    assert how == f"resuming from step 15 ({there / 'checkpoint-15'})"
    assert sorted(file.name for file in checkpoint.iterdir()) == sorted([*NAMES, MANIFEST])
    assert json.loads((checkpoint / "trainer_state.json").read_text()) == {"global_step": 15}
    assert capsys.readouterr() == (f"checkpoint-15 comes from {place}\n", "")
    Backup(place, tmp_path / "c" / "0123456789abcdef", keep=2).restore()
    assert find_start(tmp_path / "c" / "0123456789abcdef")[0] is None
    assert "nothing of this run (0123456789abcdef), but of 1 others: params" in (
        capsys.readouterr().err
    )


def test_the_newest_are_kept(place, tmp_path, capsys):
    backup = Backup(place, tmp_path / RUN, keep=2)
    sent(backup, 5, 10, 15, 20)
    assert backup.remote.steps() == [20, 15]
    assert set(backup.remote._folders()) == {20, 15}
    assert capsys.readouterr().err == ""


def test_a_later_one_that_is_damaged_does_not_push_out_what_is_sent(place, tmp_path, capsys):
    """It was refused, and the run went on from before it."""
    backup = Backup(place, tmp_path / "a" / RUN, keep=1)
    later = write(tmp_path / "made up" / RUN, 10**11)
    (later / "optimizer.pt").write_bytes(b"damaged")
    backup.remote.put(stage(later, tmp_path / "staged"), 1)
    sent(backup, 5, 10)
    assert backup.remote.steps() == [10**11, 10]
    there = tmp_path / "b" / RUN
    Backup(place, there, keep=1).restore()
    assert find_start(there)[0].name == "checkpoint-10"
    assert "checkpoint-100000000000 is not used" in capsys.readouterr().err


def test_what_is_here_and_newer_stays(place, tmp_path, capsys):
    sent(Backup(place, tmp_path / "a" / RUN, keep=2), 5)
    here = tmp_path / "b" / RUN
    write(here, 10)
    Backup(place, here, keep=2).restore()
    assert find_start(here)[0].name == "checkpoint-10" and not (here / "checkpoint-5").exists()
    assert capsys.readouterr() == ("", "")


def test_a_damaged_one_here_is_replaced_by_a_complete_one(place, tmp_path):
    here = tmp_path / RUN
    sent(Backup(place, here, keep=2), 5)
    (here / "checkpoint-5" / "optimizer.pt").write_text("damaged")
    Backup(place, here, keep=2).restore()
    assert is_complete(here / "checkpoint-5")


def restored(url: str, run):
    """The checkpoint that a machine without any begins with."""
    Backup(url, run, keep=2).restore()
    return find_start(run)[0]


@pytest.mark.parametrize("file", range(len(NAMES) + 1))
def test_a_checkpoint_is_complete_or_absent_whichever_file_is_the_last(
    folder_url, tmp_path, monkeypatch, file
):
    """Of a new one, and of one that is written over."""
    run = tmp_path / RUN
    sent(Backup(folder_url, run, keep=9), 5)
    for staged in (
        stage(write(run, 10), tmp_path / "staged"),
        stage(run / "checkpoint-5", tmp_path / "staged"),
    ):
        remote = Remote(folder_url, RUN)
        put, calls = remote.files.put_file, iter(range(99))

        def cut(local, path, put=put, calls=calls, **options):
            if next(calls) == file:
                raise OSError("the network is gone")
            return put(local, path, **options)

        monkeypatch.setattr(remote.files, "put_file", cut)
        with pytest.raises(OSError, match="the network is gone"):
            remote.put(staged, 9)
        left = [] if staged.name == "checkpoint-5" else [5]
        assert Remote(folder_url, RUN).steps() == left
        found = restored(folder_url, tmp_path / f"from {staged.name}" / RUN)
        assert [found.name] == ["checkpoint-5"] if left else found is None
    remote = Remote(folder_url, RUN)
    remote.put(stage(write(run, 15), tmp_path / "staged"), 2)
    assert set(remote._folders()) == {15}  # what was left half-way is gone


@pytest.mark.parametrize("request_", ["/preupload/", "/batch", "PUT /storage/", "/commit/"])
def test_a_commit_on_the_hub_is_there_or_is_not(hub, tmp_path, monkeypatch, request_):
    use_hub(hub.url, monkeypatch)
    run, url = tmp_path / RUN, "hf://tests/backups"
    sent(Backup(url, run, keep=1), 5)
    hub.faults.append(Fault(request_, status=403))
    with pytest.raises(Exception, match="tests/backups|Error while uploading"):
        Remote(url, RUN).put(stage(write(run, 10), tmp_path / "staged"), 1)
    assert restored(url, tmp_path / "b" / RUN).name == "checkpoint-5"
    hub.faults.clear()
    Remote(url, RUN).put(tmp_path / "staged" / "checkpoint-10", 1)
    assert Remote(url, RUN).steps() == [10]
    assert hub.repos["model", "tests/backups"].private


def test_a_removal_that_is_interrupted_leaves_nothing_that_looks_complete(
    folder_url, tmp_path, monkeypatch
):
    run = tmp_path / RUN
    sent(Backup(folder_url, run, keep=2), 5, 10)
    remote = Remote(folder_url, RUN)

    def gone(*_, **__):
        raise OSError("the network is gone")

    monkeypatch.setattr(remote.files, "rm", gone)
    with pytest.raises(OSError, match="the network is gone"):
        remote.put(stage(write(run, 15), tmp_path / "staged"), 2)
    assert Remote(folder_url, RUN).steps() == [15, 10]


def forge(remote: Remote, step: int, manifest: object, **files: bytes) -> None:
    """Write a checkpoint there as somebody else would."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    for name, content in {**files, MANIFEST: text}.items():
        remote.files.pipe_file(f"{remote.root}/checkpoint-{step}/{name}", content)


def hashes(**changes: str) -> dict[str, str]:
    return {name: "0" * 64 for name in NAMES} | changes


HOSTILE = {
    "a file that was changed": (hashes(), "its files are not as they were sealed"),
    "a way up": (hashes(**{"../../../escaped": "0" * 64}), "lists '../../../escaped'"),
    "an absolute name": (hashes(**{"/tmp/escaped": "0" * 64}), "lists '/tmp/escaped'"),
    "a pickle": (hashes(**{"training_args.bin": "0" * 64}), "lists 'training_args.bin'"),
    "a module": (hashes(**{"adapter_model.py": "0" * 64}), "lists 'adapter_model.py'"),
    "a line more": (hashes(**{"optimizer.pt\n": "0" * 64}), "lists 'optimizer.pt\\n'"),
    "too few": ({"optimizer.pt": "0" * 64}, "does not list adapter_config.json"),
    "one that is not there": (hashes(**{"scaler.pt": "0" * 64}), "scaler.pt is missing"),
    "a list": ([*NAMES], "is no list of files"),
    "no text": (b"\xff{", "complete.json: "),
    "endless brackets": (b"[" * 60_000, "nested too deep"),
    "nothing": (b"", "complete.json: "),
    "a large manifest": (b" " * 70_000, "complete.json has 70000 bytes"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_is_damaged_or_hostile_is_told_and_not_used(folder_url, tmp_path, capsys, how):
    manifest, said = HOSTILE[how]
    sent(Backup(folder_url, tmp_path / "a" / RUN, keep=2), 5)
    forge(Remote(folder_url, RUN), 10, manifest, **dict.fromkeys(NAMES, b"damaged"))
    capsys.readouterr()
    there = tmp_path / "b" / RUN
    before = {path for path in tmp_path.rglob("*") if "elsewhere" not in path.parts}
    assert restored(folder_url, there).name == "checkpoint-5"
    error = capsys.readouterr().err
    assert error.startswith(f"train.backup {folder_url}: checkpoint-10 is not used (")
    assert said in error and error.count("\n") == 1
    after = {path for path in tmp_path.rglob("*") if "elsewhere" not in path.parts} - before
    assert all(there.parent in (path, *path.parents) for path in after)
    assert not (there / "checkpoint-10").exists() and not list(there.glob(".*"))


class Runs:
    """What makes a file where it is unpickled."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


MADE_UP = {
    "optimizer.pt": lambda file: pickle.dumps(Runs(file)),
    "rng_state.pth": lambda file: pickle.dumps({"python": Runs(file)}),
    "adapter_model.safetensors": lambda file: b"\xff" * 100,
    "trainer_state.json": lambda file: b"[]",
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", MADE_UP)
def test_a_file_with_the_right_hash_is_read_as_data_or_not_at_all(
    folder_url, tmp_path, capsys, name, zipped
):
    run, ran = tmp_path / "a" / RUN, tmp_path / "ran"
    backup = Backup(folder_url, run, keep=2)
    sent(backup, 5)
    forged = write(run, 10)
    (forged / MANIFEST).unlink()
    (forged / name).write_bytes(MADE_UP[name](ran))
    if zipped and name.endswith(("pt", "pth")):
        torch.save({"python": Runs(ran)}, forged / name)
    seal(forged)
    backup.send(forged)
    backup.close()
    ran.unlink(missing_ok=True)
    assert restored(folder_url, tmp_path / "b" / RUN).name == "checkpoint-5"
    assert f"({name} is no data that training goes on from)" in capsys.readouterr().err
    assert not ran.exists()


def test_one_that_is_larger_than_the_disk_is_not_begun(folder_url, tmp_path, monkeypatch, capsys):
    sent(Backup(folder_url, tmp_path / "a" / RUN, keep=2), 5)
    monkeypatch.setattr(module, "free_bytes", lambda folder: 50)
    assert restored(folder_url, tmp_path / "b" / RUN) is None
    assert "GB are more than there is room for)" in capsys.readouterr().err


def test_names_that_are_no_checkpoints_are_left_alone(folder_url, tmp_path):
    backup = Backup(folder_url, tmp_path / RUN, keep=1)
    others = ("checkpoint-", "checkpoint--5", "checkpoint-5x", f"checkpoint-{'9' * 5000}"[:200])
    for name in others:
        backup.remote.files.pipe_file(f"{backup.remote.root}/{name}/{MANIFEST}", b"{}")
    sent(backup, 5, 10)
    assert backup.remote.steps() == [10]
    for name in others:
        assert backup.remote.files.exists(f"{backup.remote.root}/{name}/{MANIFEST}")


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["s3", "hf", "file"])
def test_an_unreachable_one_is_told_once(s3, tmp_path, monkeypatch, capsys, scheme):
    address = f"http://127.0.0.1:{closed_port()}"
    for name, value in (s3 | {"AWS_ENDPOINT_URL": address}).items():
        monkeypatch.setenv(name, value)
    use_hub(address, monkeypatch)
    (tmp_path / "file").write_text("no folder")
    urls = {"s3": f"s3://{BUCKET}", "hf": "hf://tests/none", "file": f"file://{tmp_path}/file/x"}
    backup = Backup(urls[scheme], tmp_path / RUN, keep=2)
    backup.restore()
    sent(backup, 5, 10, 15)
    error = capsys.readouterr().err
    assert error.startswith(f"train.backup {urls[scheme]}: ") and error.count("\n") == 1
    assert "; check the address, the network and your rights there" in error
    assert find_start(tmp_path / RUN)[0].name == "checkpoint-15"


def test_a_token_that_is_refused_is_not_shown(hub, tmp_path, monkeypatch, capsys):
    use_hub(hub.url, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_unknownsecret")
    sent(Backup("hf://tests/backups", tmp_path / RUN, keep=2), 5)
    error = capsys.readouterr().err
    assert "HF_TOKEN" in error and "hf_unknownsecret" not in error and error.count("\n") == 1


class Slow:
    """Another side that takes its time, and notes what came."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.came: list[str] = []

    def put(self, checkpoint, keep: int) -> None:
        self.begun.set()
        assert self.go_on.wait(60)
        assert is_complete(checkpoint)
        self.came.append(checkpoint.name)


def test_what_is_on_its_way_stays_whole_when_it_is_removed_here(tmp_path):
    """And of those that wait, the newest alone is sent."""
    run = tmp_path / RUN
    backup, slow = Backup("file:///nowhere", run, keep=1), Slow()
    backup._remote = slow
    for step in (5, 10, 15, 20):
        backup.send(write(run, step))
        keep_newest(run, 1)
        assert slow.begun.wait(60)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-20"]
    slow.go_on.set()
    backup.close()
    assert slow.came == ["checkpoint-5", "checkpoint-20"]
    assert not list((run / SENDING).iterdir())


def test_what_a_killed_run_was_sending_is_removed(tmp_path):
    run = tmp_path / RUN
    stage(write(run, 5), run / SENDING)
    Backup("file:///nowhere", run, keep=1)
    assert not (run / SENDING).exists() and is_complete(run / "checkpoint-5")


def test_where_there_are_no_links_there_are_copies(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    assert is_complete(stage(write(tmp_path / RUN, 5), tmp_path / "staged"))


def test_a_thread_that_hangs_does_not_keep_the_process(tmp_path, monkeypatch):
    """`close` waits a moment, the exit of the process does not wait at all."""
    code = """
import sys, time
from pathlib import Path
from pricer.training import backup
from pricer.training.checkpoints import seal
class Hangs:
    def put(self, checkpoint, keep): time.sleep(600)
backup.LAST_WAIT_S = 0.1
run = Path(sys.argv[1])
one = backup.Backup("file:///nowhere", run, 1)
one._remote = Hangs()
(run / "checkpoint-5").mkdir(parents=True)
(run / "checkpoint-5" / "optimizer.pt").write_text("")
seal(run / "checkpoint-5")
one.send(run / "checkpoint-5")
one.close()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / RUN)], env=environment, timeout=120
    )
    assert done.returncode == 0


def test_a_library_that_is_not_installed_is_told_before_training():
    for url in (None, "hf://tests/backups", "file:///backups", "s3://backups"):
        check_backup(url)
    with pytest.raises(ParamsError, match=r"train.backup gs:// needs gcsfs, not installed: run"):
        check_backup("gs://backups")


def test_what_is_not_needed_to_go_on_is_not_sent(tmp_path):
    staged = stage(write(tmp_path / RUN, 5), tmp_path / "staged")
    assert sorted(file.name for file in staged.iterdir()) == sorted([*NAMES, MANIFEST])
    shutil.rmtree(staged)
