"""Bulk prediction on Ray against a plain loop over the same parts, and two actors against one.

    python -m bench.ray --products 10000            # with what `make repro` left
    python -m bench.ray --rows 1000000 --project P  # the driver's memory, with the model in P

Each way is the real command, in processes of its own, every thread count one. Seconds are those of
the whole command: starting Python, Ray and the model is in them. Rates are those after the first
part of each actor, from the times at which parts were written.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq

from pricer.products.catalog import generate_products
from tests.ray_machines import ray_machines

BIN = Path(sys.executable).parent
PART_ROWS = 128


def make_products(file: Path, products: int, described: int) -> None:
    """Write catalogue products, every `described`-th with a summary."""
    made = generate_products(
        -(-products // described), seed=7, noise=0.1, min_price=0.5, max_price=999.49
    )
    summaries = np.full(products, None, dtype=object)
    summaries[::described] = [row["summary"] for row in made]
    pd.DataFrame({"id": np.arange(products), "summary": summaries}).to_parquet(file)


@dataclass(frozen=True)
class Ran:
    """A command that has ended.

    Attributes:
        seconds: from its start to its end.
        rate: products a second, from the first part of each actor to the last part.
        memory: the driver's, MiB, at seconds from its start.
    """

    seconds: float
    rate: float
    memory: list[tuple[float, float]]


@dataclass(frozen=True)
class Way:
    """Ways to price the same products, each with a folder of its own that is new each time."""

    folder: Path
    project: Path

    @property
    def products(self) -> Path:
        """The products, all in one file."""
        return self.folder / "products.parquet"

    def loop(self) -> Ran:
        """Price all of them in one process with one thread."""
        return self._run(1, "--part-rows", str(PART_ROWS), "--shard", "1/1", "--threads", "1")

    def on_ray(self, actors: int, part_rows: int = PART_ROWS) -> Ran:
        """Price all of them by so many actors with one thread each."""
        with ray_machines(actors) as machines:
            how = "--part-rows", str(part_rows), "--ray", machines.address
            return self._run(actors, *how, **machines.token)

    def _run(self, actors: int, *how: str, **environment: str) -> Ran:
        out = Path(tempfile.mkdtemp(dir=self.folder))
        command = [str(BIN / "pricer"), "predict", "--file", str(self.products), "--output"]
        began = time.perf_counter()
        memory = []
        with subprocess.Popen(
            [*command, str(out), *how],
            cwd=self.project,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        ) as driver:
            while driver.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    resident = psutil.Process(driver.pid).memory_info().rss / 2**20
                    memory.append((time.perf_counter() - began, resident))
                time.sleep(0.5)
        assert driver.returncode == 0
        elapsed_s = time.perf_counter() - began
        written = sorted((file.stat().st_mtime, file) for file in out.glob("*.parquet"))
        rows = [pq.read_metadata(file).num_rows for _, file in written]
        passed_s = written[-1][0] - written[actors - 1][0]
        return Ran(elapsed_s, sum(rows[actors:]) / passed_s if passed_s else 0.0, memory)


def main() -> None:
    """Time the ways, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, help="only the driver's memory, with so many rows")
    parser.add_argument("--described", type=int, default=20, help="of --rows, every so-manieth")
    parser.add_argument("--project", type=Path, default=Path())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        way = Way(Path(name), options.project)
        if options.rows:
            make_products(way.products, options.rows, options.described)
            ran = way.on_ray(2, part_rows=2048)
            early = max(m for at, m in ran.memory if at <= max(ran.seconds / 10, ran.memory[0][0]))
            shown = ran.memory[:: max(1, len(ran.memory) // 10)]
            print(f"driver, MiB: {', '.join(f'{memory:.0f}' for _, memory in shown)}")
            growth = max(memory for _, memory in ran.memory) - early
            print(f"{options.rows:,} rows in {ran.seconds:.0f} s: grew by {growth:.1f} MiB")
            return
        make_products(way.products, options.products, 1)
        for number in range(options.rounds):
            ways = way.loop(), way.on_ray(1), way.on_ray(2)
            for label, ran in zip(("a loop", "one actor", "two actors"), ways, strict=True):
                print(f"{number + 1}, {label}: {ran.seconds:.1f} s, {ran.rate:.2f} products/s")
            loop, one, two = ways
            print(
                f"Ray's overhead: {loop.rate / one.rate - 1:+.1%} of a product, "
                f"{one.seconds - loop.seconds:+.1f} s of the command"
            )
            print(
                f"two actors are {two.rate / one.rate:.2f} times as fast as one, the command "
                f"{one.seconds / two.seconds:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
