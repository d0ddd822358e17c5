"""Bulk prediction on Ray against a plain loop over the same parts, and two actors against one.

    python -m bench.ray --products 10000            # with what `make repro` left
    python -m bench.ray --rows 1000000 --project P  # the driver's memory, with the model in P

Each way is the real command, in processes of its own, every thread count one. Seconds are those of
the whole command: starting Python, Ray and the model is in them. Rates are those after the first
part of each actor, from the times at which parts were written.
"""

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from pricer.products.catalog import generate_products

BIN = Path(sys.executable).parent
PART_ROWS = 256


def make_products(file: Path, products: int, described: int) -> None:
    """Write catalogue products, every `described`-th with a summary."""
    made = generate_products(
        -(-products // described), seed=7, noise=0.1, min_price=0.5, max_price=999.49
    )
    summaries = np.full(products, None, dtype=object)
    summaries[::described] = [row["summary"] for row in made]
    pd.DataFrame({"id": np.arange(products), "summary": summaries}).to_parquet(file)


@contextmanager
def cluster(cores: int, environment: dict[str, str]) -> Iterator[str]:
    """Start a Ray cluster of one machine with so many cores; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the paths of its sockets must be short
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--num-cpus={cores}",
    ]
    command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
    head = subprocess.Popen(
        [*command, "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert head.stdout
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    try:
        yield f"127.0.0.1:{port}"
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in family:
            process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def run(arguments: list[str], project: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of `pricer predict`, and the growth of its memory once parts come, MiB.

    The growth is from the first tenth of the time to the end.
    """
    command = [str(BIN / "pricer"), "predict", *arguments]
    began = time.perf_counter()
    driver = subprocess.Popen(command, cwd=project, env=environment)
    samples: list[tuple[float, float]] = []

    def watch() -> None:
        while driver.poll() is None:
            try:
                memory = psutil.Process(driver.pid).memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                return
            samples.append((time.perf_counter() - began, memory))
            time.sleep(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert driver.wait() == 0
    watcher.join()
    elapsed_s = time.perf_counter() - began
    early = max(memory for at, memory in samples if at <= max(elapsed_s / 10, samples[0][0]))
    print(
        "  memory of the driver, MiB: "
        + ", ".join(f"{m:.0f}" for _, m in samples[:: max(1, len(samples) // 8)])
    )
    return elapsed_s, max(memory for _, memory in samples) - early


def steady_rate(out: Path, actors: int) -> float:
    """Return products a second, from the first part of each actor to the last part."""
    written = sorted((file.stat().st_mtime, file) for file in out.glob("*.parquet"))
    rows = [len(pd.read_parquet(file, columns=["error"])) for _, file in written]
    return sum(rows[actors:]) / (written[-1][0] - written[actors - 1][0])


def main() -> None:
    """Time the ways, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=2048)
    parser.add_argument("--rows", type=int, help="only the driver's memory, with so many rows")
    parser.add_argument("--described", type=int, default=20, help="of --rows, every so-manieth")
    parser.add_argument("--project", type=Path, default=Path())
    options = parser.parse_args()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        products = folder / "products.parquet"
        what = ["--file", str(products), "--output"]
        if options.rows:
            make_products(products, options.rows, options.described)
            with cluster(2, environment) as address:
                how = [*what, str(folder / "out"), "--ray", address, "--part-rows", "2048"]
                elapsed_s, growth = run(how, options.project, environment)
            print(
                f"{options.rows:,} rows in {elapsed_s:.0f} s: the driver grew by {growth:.1f} MiB"
            )
            return
        make_products(products, options.products, 1)
        sized = ["--part-rows", str(PART_ROWS), "--threads", "1"]
        seconds, rates = {}, {}
        for actors in (0, 1, 2):
            out = folder / str(actors)
            if actors:
                with cluster(actors, environment) as address:
                    how = [*what, str(out), *sized, "--ray", address]
                    seconds[actors], _ = run(how, options.project, environment)
            else:
                how = [*what, str(out), *sized, "--shard", "1/1"]
                seconds[0], _ = run(how, options.project, environment)
            rates[actors] = steady_rate(out, max(actors, 1))
            print(f"{actors} actors: {seconds[actors]:.1f} s, then {rates[actors]:.2f} products/s")
        print(f"Ray's overhead in seconds of the whole command: {seconds[1] / seconds[0] - 1:+.1%}")
        print(f"in products a second: {rates[0] / rates[1] - 1:+.1%}")
        whole = seconds[1] / seconds[2]
        print(f"two actors: {rates[2] / rates[1]:.2f} times one ({whole:.2f} the whole command)")


if __name__ == "__main__":
    main()
