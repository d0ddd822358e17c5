import json
import os
import shutil
import threading

import pytest

from pricer.errors import PricerError
from pricer.params import read_params
from pricer.training.checkpoints import (
    MANIFEST,
    all_checkpoints,
    alone,
    find_start,
    is_complete,
    keep_newest,
    lasting_root,
    require_space,
    run_fingerprint,
    seal,
    space_for_checkpoints,
)
from tests.conftest import ROOT


def write(run, step: int, *, sealed: bool = True):
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    if sealed:
        seal(folder)
    return folder


def test_the_newest_complete_checkpoint_is_the_one(tmp_path):
    for step in (5, 100, 25):
        write(tmp_path, step)
    checkpoint, how = find_start(tmp_path)
    assert checkpoint.name == "checkpoint-100"
    assert how == f"resuming from step 100 ({checkpoint})"
    assert [path.name[11:] for path in all_checkpoints(tmp_path)] == ["100", "25", "5"]


def break_unsealed(folder):
    (folder / MANIFEST).unlink()


def break_cut_off(folder):
    (folder / "weights").write_bytes(b"w" * 999)


def break_flipped(folder):
    (folder / "weights").write_bytes(b"w" * 999 + b"x")


def break_missing(folder):
    (folder / "state.json").unlink()


def break_more(folder):
    (folder / "stray").write_text("")


def break_empty(folder):
    (folder / MANIFEST).write_text("{}")


def break_manifest(folder):
    (folder / MANIFEST).write_bytes(b"\xff{")


@pytest.mark.parametrize(
    "damage", [value for name, value in list(globals().items()) if name.startswith("break_")]
)
def test_a_broken_checkpoint_is_never_used(tmp_path, damage):
    write(tmp_path, 10)
    newest = write(tmp_path, 20)
    assert is_complete(newest)
    damage(newest)
    checkpoint, how = find_start(tmp_path)
    assert checkpoint.name == "checkpoint-10" and not newest.exists()
    assert how.endswith("; 1 incomplete or damaged removed")
    damage(checkpoint)
    assert find_start(tmp_path) == (
        None,
        f"starting afresh (no usable checkpoint in {tmp_path}); 1 incomplete or damaged removed",
    )


def test_without_any_it_starts_afresh(tmp_path):
    nothing, how = find_start(tmp_path / "run")
    assert nothing is None
    assert how == f"starting afresh (no checkpoint of this very run in {tmp_path / 'run'})"


def test_older_ones_go_first(tmp_path):
    for step in (10, 20, 30):
        write(tmp_path, step)
    keep_newest(tmp_path, 2)
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-30", "checkpoint-20"]


@pytest.fixture
def shapes(tmp_path):
    params = read_params(ROOT / "params.yaml")
    data, code = tmp_path / "data", tmp_path / "code.py"
    data.mkdir()
    (data / "train.parquet").write_bytes(b"data")
    code.write_text("code")
    sections = {name: getattr(params, name) for name in ("lora", "train", "compute")}
    return {
        "params": sections,
        "data": [data],
        "code": {"code.py": code},
        "machine": {"device": "cpu"},
    }


def test_a_run_is_known_by_what_shapes_it(shapes, monkeypatch):
    def name() -> str:
        machine = shapes["machine"]
        return run_fingerprint(shapes["params"], shapes["data"], shapes["code"], machine=machine)

    found = {name()}
    assert name() in found
    params = dict(shapes["params"])
    # when something is written changes nothing
    for key, value in (("save_steps", 7), ("save_total_limit", 9), ("report_to", ["wandb"])):
        shapes["params"] = params | {"train": params["train"].model_copy(update={key: value})}
        assert name() in found, key
    changes = [
        ("lora", {"r": 3}),
        ("train", {"learning_rate": 0.1}),
        ("train", {"seed": 1}),
        ("compute", {"dtype": "float32"}),
    ]
    for section, update in changes:
        shapes["params"] = params | {section: params[section].model_copy(update=update)}
        assert name() not in found, update
        found.add(name())
    (shapes["data"][0] / "train.parquet").write_bytes(b"other")
    assert name() not in found
    found.add(name())
    shapes["code"]["code.py"].write_text("other")
    assert name() not in found
    found.add(name())
    shapes["machine"] = {"device": "cuda:0"}
    assert name() not in found
    found.add(name())
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert name() not in found
    found.add(name())
    monkeypatch.setattr("pricer.training.checkpoints.version", lambda library: "0")
    assert name() not in found


def test_two_processes_with_the_same_run_take_turns(tmp_path, capsys):
    """As two queued experiments that differ in a param of prediction alone."""
    entered, seen = threading.Event(), []

    def second() -> None:
        with alone(tmp_path / "run"):
            seen.append(entered.is_set())

    with alone(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting for another process" not in capsys.readouterr().out:
            os.sched_yield()
        entered.set()
    thread.join()
    assert seen == [True]


def test_experiments_in_a_temporary_copy_share_the_projects_checkpoints(tmp_path):
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "x"
    copy.mkdir(parents=True)
    assert lasting_root(copy) == tmp_path
    shutil.rmtree(tmp_path / ".dvc")
    assert lasting_root(tmp_path) == tmp_path


def test_a_disk_without_room_for_the_checkpoints_is_told(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    run = tmp_path / "not" / "yet"
    require_space(run, 2_000_000_000)
    with pytest.raises(PricerError, match=r"need 2.1 GB of disk, and 2.0 GB are free: make room"):
        require_space(run, 2_100_000_000)


def test_checkpoints_that_are_there_need_no_more_room(tmp_path):
    assert space_for_checkpoints(tmp_path, 1000, limit=2) == 3 * 12_000
    for step, needed in ((5, 24_000), (10, 12_000), (15, 12_000)):
        write(tmp_path, step)
        assert space_for_checkpoints(tmp_path, 1000, limit=2) == needed
