"""What sending checkpoints elsewhere costs training: with a server that works and one that is mute.

One run of training in blocks of steps. Each block begins with a checkpoint, as every block of
`train.save_steps` does; it is sent to nobody, to a server that takes connections and never answers,
or to an S3-compatible one (moto, on this machine, at the lowest priority: its own work would be
another machine's). Blocks come in rounds of all three, in random order, and are compared within a
round, so that a busy machine slows all alike.

    python -m bench.backup --rounds 8 --block 25     # on what `make repro` left
"""

import argparse
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState
from trl import SFTTrainer

from bench.train import Work, ours, reproduced
from pricer.model.base import choose_device, choose_dtype, load_base_model
from pricer.prices.batches import contiguous_output_layer
from pricer.training.backup import Backup

SERVER = """
import os, sys, time
from tests.s3_server import s3_server
os.nice(19)
with s3_server() as environment:
    print(environment["AWS_ENDPOINT_URL"], flush=True)
    sys.stdin.read()
"""
NOBODY, MUTE, WORKING = "nobody", "a mute server", "an S3 server"


class Blocks(TrainerCallback):
    """Times blocks of steps, each with a checkpoint that is sent somewhere, or nowhere."""

    def __init__(self, trainer: SFTTrainer, size: int, order: list[str]) -> None:
        """Take the steps of a block, and where the checkpoint of each block goes."""
        self.trainer = trainer
        self.size = size
        self.order = order
        self.seconds: list[float] = []
        self.late = 0  # blocks that ended before their checkpoint had arrived
        self.began = 0.0
        run = Path(trainer.args.output_dir)
        self.places = {
            MUTE: Backup("s3://backups/mute", run, 2),
            WORKING: Backup("s3://backups/bench", run, 2),
        }

    def on_step_end(  # noqa: D102
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_evaluate = control.should_save = False
        block, rest = divmod(state.global_step, self.size)
        if rest:
            return
        if block > 1:  # what comes before the first is not timed
            self.seconds.append(time.perf_counter() - self.began)
            self._settle(self.order[block - 2])
        if block > len(self.order):
            control.should_training_stop = True
            return
        self.began = time.perf_counter()
        self.trainer._save_checkpoint(self.trainer.model, None)
        if place := self.places.get(self.order[block - 1]):
            place.send(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _settle(self, name: str) -> None:
        """Wait, outside of what is timed, for what is on its way: the next block has its own.

        Not for the mute server: a thread that waits for it is there in the blocks after, too.
        """
        if name == WORKING:
            place = self.places[name]
            self.late += place._sending
            with place._changed:
                place._changed.wait_for(lambda: not place._sending, 300)


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Yield the addresses of a server that is mute, and of one that works."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        working = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert working.stdout
            address = next(line for line in working.stdout if line.startswith("http")).strip()
            yield f"http://127.0.0.1:{mute.getsockname()[1]}", address
        finally:
            working.kill()


def as_the_stage_loads(work: Work) -> PreTrainedModel:
    """Load the base model with the committed params."""
    compute = work.params.compute
    device = choose_device(compute.device)
    return load_base_model(
        work.base,
        device=device,
        dtype=choose_dtype(compute.dtype, device),
        quantization=work.params.quantization,
        dequantize=compute.dequantize,
    )


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios and its 95% interval (Student's t of the logarithms)."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, n = statistics.mean(logs), len(logs)
    half = t.ppf(0.975, n - 1) * statistics.stdev(logs) / math.sqrt(n)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--block", type=int, default=25, help="steps")
    options = parser.parse_args()
    rng = random.Random(0)
    order = [
        name for _ in range(options.rounds) for name in rng.sample([NOBODY, MUTE, WORKING], k=3)
    ]
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    os.environ.update(keys | {"AWS_DEFAULT_REGION": "us-east-1"})
    with tempfile.TemporaryDirectory() as temporary, servers() as (mute, working):
        work = reproduced(Path(temporary), (len(order) + 1) * options.block)
        trainer = ours(work, as_the_stage_loads(work))
        blocks = Blocks(trainer, options.block, order)
        for name, address in ((MUTE, mute), (WORKING, working)):
            os.environ["AWS_ENDPOINT_URL"] = address
            blocks.places[name].remote.files.connect()  # the address is read now
        trainer.args.save_total_limit = 2
        trainer.args.num_train_epochs = 100  # it is left before
        trainer.add_callback(blocks)
        with contiguous_output_layer(trainer.model):
            trainer.train()
        run = Path(trainer.args.output_dir)
        size = sum(file.stat().st_size for file in next(run.glob("checkpoint-*")).iterdir())
        kept = len(blocks.places[WORKING].remote.steps())
    rounds = [
        dict(zip(order[start : start + 3], blocks.seconds[start : start + 3], strict=True))
        for start in range(0, len(order), 3)
    ]
    print(
        f"\n{options.rounds} rounds, blocks of {options.block} steps and a checkpoint of "
        f"{size / 1e6:.0f} MB; {torch.get_num_threads()} threads; {kept} checkpoints on the S3 "
        f"server; {blocks.late} of {options.rounds} uploads took longer than their block\n"
    )
    print("| sent to | s a block (median) | times as long as to nobody (95% interval) |")
    print("|---|---|---|")
    for name in (NOBODY, MUTE, WORKING):
        seconds = statistics.median(one[name] for one in rounds)
        mean, low, high = interval([one[name] / one[NOBODY] for one in rounds])
        times = "1" if name == NOBODY else f"{mean:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {name} | {seconds:.2f} | {times} |")


if __name__ == "__main__":
    main()
