"""Several machines, none of which sees another's disk: the first one has the checkpoints.

The others are given the one that training goes on from, and give what they add to a new one.
"""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from pricer.errors import PricerError
from pricer.launch import first_here, from_all, from_first, machine_rank, machines, rank
from pricer.params import Train
from pricer.training.checkpoints import is_complete

CHUNK = 2**26  # bytes that are in memory at once


def own_folder(run: Path) -> Path:
    """Return the folder for a run's checkpoints on this machine; the first one's is `run` itself.

    Another for each, where some share a disk after all.
    """
    return run.with_name(f"{run.name}.machine-{machine_rank()}") if machine_rank() else run


def check_same_run(run: Path, train: Train) -> None:
    """Raise PricerError if another machine trains, or saves, otherwise than this one would.

    All processes have to call it.
    """
    own = (run.name, train.save_strategy, train.save_steps)
    others = {machine for machine, theirs in from_all((machine_rank(), own)) if theirs != own}
    if others:
        raise PricerError(
            f"machine {machine_rank()} would train another adapter than machine {min(others)}, or "
            "save at other steps: params.yaml, prompts, base model, code, versions of libraries, "
            "device, precision or threads differ; compare `git status`, `dvc status` and `pip "
            "freeze` on both"
        )


def hand_out(checkpoint: Path | None, run: Path) -> Path | None:
    """Return where a checkpoint of the first machine is on this one, after giving it to all.

    All processes have to call it.

    Args:
        checkpoint: on the first machine.
        run: folder for the checkpoints of this machine.

    Raises:
        PricerError: it did not arrive as it was.
    """
    if machines() == 1:
        return checkpoint
    receives = machine_rank() > 0 and first_here()
    if receives:
        shutil.rmtree(run, ignore_errors=True)  # of an earlier run, and given then
    if checkpoint is None:
        return None
    here = run / checkpoint.name
    if receives:
        here.mkdir(parents=True)
    for name in from_first([file.name for file in checkpoint.iterdir()] if rank() == 0 else []):
        _send(checkpoint / name, here / name if receives else None)
    if not all(from_all(not receives or is_complete(here))):
        raise PricerError(f"{here} did not arrive as it is on machine 0: run the same again")
    return here


def _send(source: Path, target: Path | None) -> None:
    """Have all processes go through a file of the first one's, and some write it."""
    chunks = _chunks(source) if rank() == 0 else iter(())
    with target.open("wb") if target else nullcontext() as file:
        while chunk := from_first(next(chunks, b"")):
            if file:
                file.write(chunk)


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def collect(checkpoint: Path) -> None:
    """Bring the state of every process's random numbers to the first machine's checkpoint.

    All processes have to call it. Other machines keep nothing of it.
    """
    if machines() == 1:
        return
    file = checkpoint / f"rng_state_{rank()}.pth"
    every = from_all((file.name, file.read_bytes()))
    if rank() == 0:
        for name, content in every:
            (checkpoint / name).write_bytes(content)
    elif machine_rank() > 0 and first_here():
        shutil.rmtree(checkpoint)
