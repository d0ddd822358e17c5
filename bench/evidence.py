"""Time and memory of the stages `evidence` and `baselines` on many products, and what is found.

    python -m bench.evidence --products 800000             # of the catalogue
    python -m bench.evidence --items items.parquet         # yours: title, category, price, summary

The stage runs once, in this process, on so many training products and 10,000 each for validation
and test. CPU seconds are those of all threads: other work on the machine hardly moves them.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pricer.evidence import folds, models
from pricer.evidence.approximate import ApproximateIndex
from pricer.evidence.neighbors import ExactIndex
from pricer.files import write_parquet
from pricer.products.catalog import generate_products
from pricer.products.items import read_items, write_items
from pricer.stages import baselines, evidence

ROOT = Path(__file__).parent.parent
OTHERS = 10_000  # validation products, and as many for test
ASKED = 200  # products whose evidence is asked for one at a time

# each is found where it is called from
PARTS: dict[str, list[tuple[Any, str]]] = {
    "words counted and weighted": [(folds, "word_vectors"), (models.EvidenceModels, "vectors_of")],
    "index": [(folds, "make_index")],
    "linear models of words": [(folds, "fit_log_prices")],
    "folds": [(folds, "assign_folds")],
    "neighbours": [(ExactIndex, "nearest"), (ApproximateIndex, "nearest")],
    "tables": [(models, "make_table"), (folds, "make_table"), (evidence, "compare_splits")],
    "recall": [(evidence, "describe")],
    "files": [(evidence, "write_models"), (evidence, "write_parquet"), (evidence, "read_items")],
}

Seconds = dict[str, tuple[float, float]]  # by part: elapsed, CPU


def make_items(file: Path, products: int) -> None:
    """Write catalogue products to a file."""
    rows = generate_products(products, seed=42, noise=0.1, min_price=0.5, max_price=999.49)
    write_parquet(file, pd.DataFrame(rows)[["title", "category", "price", "summary"]])


def split(file: Path, folder: Path) -> int:
    """Write the products of a file as three splits; return how many are for training."""
    items = pd.read_parquet(file, columns=["title", "category", "price", "summary"])
    items.insert(0, "id", np.arange(len(items)))
    train = len(items) - 2 * OTHERS
    bounds = {"train": (0, train), "validation": (train, train + OTHERS), "test": (-OTHERS, None)}
    write_items(
        folder,
        {name: items.iloc[slice(*rows)].reset_index(drop=True) for name, rows in bounds.items()},
    )
    return train


def clock(measured: dict[str, list[tuple[float, float]]]) -> None:
    """Let each part note the seconds of its calls, but for those within another part."""
    running: list[str] = []

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if running:
                return function(*arguments, **named)
            running.append(part)
            started = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                ended = time.perf_counter(), time.process_time()
                measured[running.pop()].append((ended[0] - started[0], ended[1] - started[1]))

        return call

    for part, places in PARTS.items():
        for home, name in places:
            setattr(home, name, timed(part, getattr(home, name)))


def run_stage(folder: Path) -> Seconds:
    """Run the stage in a folder that has items; return the seconds by part, and of all."""
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    clock(measured)
    shutil.copy(ROOT / "params.yaml", folder)
    os.chdir(folder)
    started = time.perf_counter(), time.process_time()
    evidence.main(Path("items"), Path("evidence"), Path("evidence.json"))
    total = time.perf_counter() - started[0], time.process_time() - started[1]
    sums = {part: [sum(column) for column in zip(*measured[part], strict=True)] for part in PARTS}
    return {part: (one[0], one[1]) for part, one in sums.items() if one} | {"all": total}


def ask_one_by_one(folder: Path) -> tuple[float, list[float]]:
    """Return the seconds that reading takes, and the milliseconds of each product's evidence."""
    started = time.perf_counter()
    fitted = models.read_models(folder / "evidence/models")
    read_s = time.perf_counter() - started
    times = []
    for text in read_items(folder / "items", "test")["summary"][: ASKED + 1]:
        started = time.perf_counter()
        fitted.neighbors(fitted.of_texts([text]), 5)
        times.append(1000 * (time.perf_counter() - started))
    return read_s, times[1:]


def main() -> None:
    """Print a Markdown table of the parts, then what the index finds and how quickly."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=100_000, help="for training, catalogue")
    parser.add_argument("--items", type=Path, help="a Parquet file, in place of the catalogue")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = options.items or folder / "items.parquet"
        # what makes and splits products is not in the stage's memory
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
            if not options.items:
                other_process.submit(make_items, file, options.products + 2 * OTHERS).result()
            train = other_process.submit(split, file.resolve(), folder / "items").result()
        seconds = run_stage(folder)
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        facts = json.loads(Path("evidence.json").read_text(encoding="utf-8"))
        read_s, times = ask_one_by_one(folder)
        sizes = {
            one.name: one.stat().st_size / 1e6 for one in sorted(Path("evidence/models").iterdir())
        }
        started = time.perf_counter()
        baselines.main(Path("items"), Path("evidence"), Path("baselines.parquet"))
        baselines_s = time.perf_counter() - started
        baselines_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        os.chdir(ROOT)
    print(f"\n{train:,} training products, peak memory {peak_gib:.2f} GiB\n")
    print("| part | seconds | CPU seconds |\n|---|---|---|")
    for part, (elapsed_s, cpu_s) in seconds.items():
        print(f"| {part} | {elapsed_s:.1f} | {cpu_s:.1f} |")
    print(f"\nindex: {facts['index']}")
    print(f"models, MB: {', '.join(f'{name} {size:.0f}' for name, size in sizes.items())}")
    print(
        f"read in {read_s:.1f} s; a product's evidence: median {statistics.median(times):.1f} ms, "
        f"95 of 100 within {np.quantile(times, 0.95):.1f} ms"
    )
    print(f"baselines: {baselines_s:.1f} s; peak memory of both stages {baselines_gib:.2f} GiB")


if __name__ == "__main__":
    main()
