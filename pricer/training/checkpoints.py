"""Checkpoints to resume a training run from: complete, and of the same run, or not used at all."""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from pricer.errors import PricerError
from pricer.files import read_json, sync, write_json
from pricer.launch import process_count
from pricer.params import Section
from pricer.provenance import file_sha256, folder_sha256

MANIFEST = "complete.json"

LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "numpy",
    "peft",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
# params that change when something is written, not what is trained
NOT_SHAPING = {
    "backup",
    "report_to",
    "run_name",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "tags",
}


def lasting_root(project: Path) -> Path:
    """Return the folder that keeps what is to outlive a run: the project, or what it is a copy of.

    DVC runs queued and temporary experiments in copies of the project below its `.dvc` folder,
    and removes them: their checkpoints belong to the project itself.
    """
    for folder in project.resolve().parents:
        if folder.name == ".dvc":
            return folder.parent
    return project


def run_fingerprint(
    params: dict[str, Section],
    data: list[Path],
    code: dict[str, Path],
    *,
    machine: dict[str, str | int | None],
) -> str:
    """Return the name of all runs that end with the same adapter: 16 hexadecimal digits.

    Args:
        params: sections by name; those that change only when something is written have no part.
        data: folders that are read.
        code: files that run, by their path in the package.
        machine: what else changes how numbers are rounded; the number of processes is added.
    """
    shapes = {
        "params": {
            name: section.model_dump(exclude=NOT_SHAPING) for name, section in params.items()
        },
        "data": [folder_sha256(folder) for folder in data],
        "code": {path: file_sha256(file) for path, file in code.items()},
        "machine": machine | {"processes": process_count()},
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
    }
    text = json.dumps(shapes, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold a run's checkpoints for the block; wait for another process that trains the same run."""
    run.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("waiting for another process that trains the very same adapter", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, once all of it is on the disk: no power loss undoes it."""
    for file in checkpoint.iterdir():
        sync(file)
    hashes = folder_sha256(checkpoint)
    write_json(checkpoint / MANIFEST, hashes)
    sync(checkpoint / MANIFEST)
    sync(checkpoint)
    sync(checkpoint.parent)


def is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was sealed and every file is as it was then."""
    try:
        expected = read_json(checkpoint / MANIFEST)
        found = folder_sha256(checkpoint)
    except (OSError, ValueError):
        return False
    found.pop(MANIFEST, None)
    return bool(expected) and expected == found


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written: 100 for `checkpoint-100`."""
    return int(checkpoint.name.rpartition("-")[2])


def all_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, complete or not, the newest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=checkpoint_step, reverse=True)


def find_start(run: Path) -> tuple[Path | None, str]:
    """Return the newest complete checkpoint of a run, if any, and in words what happens.

    Checkpoints that are incomplete or damaged are removed.
    """
    broken = 0
    for checkpoint in all_checkpoints(run):
        if is_complete(checkpoint):
            how = f"resuming from step {checkpoint_step(checkpoint)} ({checkpoint})"
            return checkpoint, how + _removed(broken)
        shutil.rmtree(checkpoint)
        broken += 1
    why = "no usable checkpoint" if broken else "no checkpoint of this very run"
    return None, f"starting afresh ({why} in {run})" + _removed(broken)


def _removed(broken: int) -> str:
    return f"; {broken} incomplete or damaged removed" if broken else ""


def keep_newest(run: Path, limit: int) -> None:
    """Remove all but a run's `limit` newest checkpoints."""
    for checkpoint in all_checkpoints(run)[limit:]:
        # without its mark first: a kill half-way leaves nothing that looks complete
        (checkpoint / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)


def space_for_checkpoints(run: Path, parameters: int, limit: int) -> int:
    """Return the bytes that a run may still write: one checkpoint more than it keeps.

    A checkpoint holds the adapter and AdamW's two moments in float32; in 8 bits they take less.

    Args:
        run: its folder; the checkpoints that are there take no more.
        parameters: trainable ones.
        limit: `train.save_total_limit`.
    """
    return max(limit + 1 - len(all_checkpoints(run)), 1) * 3 * 4 * parameters


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise PricerError unless the disk of a folder has that much free.

    Better before training than hours into it.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise PricerError(
            f"checkpoints in {folder} need {needed_bytes / 1e9:.1f} GB of disk, and "
            f"{free / 1e9:.1f} GB are free: make room (`rm -r .checkpoints` removes those of "
            "other runs), or lower train.save_total_limit"
        )


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder, which need not exist yet."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    return shutil.disk_usage(there).free
