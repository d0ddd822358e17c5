"""Time and memory of the `evidence`, `baselines` and `evaluate` stages on many products.

`python -m bench.evaluate --products 10000 --rounds 3` makes catalogue items and predictions with
errors like a trained model's, and runs the stages as `dvc repro` does, each in a process of its
own. What is made up is the predictions alone: nothing else differs from a real run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from pricer.files import write_json, write_parquet
from pricer.prices.distribution import PriceDistributions
from pricer.prices.predictions import make_predictions
from pricer.products.catalog_source import catalog_items
from pricer.products.items import write_items

ROOT = Path(__file__).parent.parent
CHUNK = 1000  # products whose distributions are in memory at once


def predictions(items: pd.DataFrame, spread: float, seed: int) -> pd.DataFrame:
    """Return a predictions table of log-normal distributions that are off by `spread`."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, len(items), CHUNK):
        part = items.iloc[start : start + CHUNK].reset_index(drop=True)
        center = np.log1p(part["price"]) + rng.normal(0, spread, len(part))
        z = (np.log1p(np.arange(1000)) - center.to_numpy()[:, None]) / spread
        probabilities = np.exp(-(z**2) / 2)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        mode = probabilities.argmax(axis=1)
        said = PriceDistributions(
            probabilities,
            np.full(len(part), 0.95),
            np.full(len(part), 0.01),
            [f"{price}.00" for price in mode],
            batch_size=1,
        )
        offsets = {"50": 0.0, "80": 0.0, "90": 0.0}
        parts.append(make_predictions(part, said, offsets, kind="median"))
    return pd.concat(parts, ignore_index=True)


def make_project(folder: Path, products: int) -> None:
    """Lay out what the stages read: items, predictions, curves, metrics, params."""
    sizes = {"train": 2 * products, "validation": 1, "test": products}
    splits, counts = catalog_items(sizes, seed=7, noise=0.1, min_price=0.5, max_price=999.49)
    write_items(folder / "data/items", splits)
    for name, spread in (("tuned", 0.4), ("base", 1.2)):
        write_parquet(
            folder / f"data/predictions/{name}.parquet", predictions(splits["test"], spread, 1)
        )
    write_json(folder / "metrics/items.json", counts)
    shutil.copy(ROOT / "metrics/prompts.json", folder / "metrics/prompts.json")
    shutil.copytree(ROOT / "metrics/train", folder / "metrics/train")
    # these are hashed, and nothing else
    for name in ("prompts", "base_model", "adapter"):
        (folder / "data" / name).mkdir()
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")


def run(folder: Path, command: str) -> tuple[float, float]:
    """Return the seconds and the peak memory in GiB of a stage."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command.split()[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def main() -> None:
    """Print a Markdown table: seconds, median of the rounds, and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, options.products)
        found = {
            stage: [run(folder, pipeline[stage]["cmd"]) for _ in range(options.rounds)]
            for stage in ("evidence", "baselines", "evaluate")
        }
        size = (folder / "metrics/report.html").stat().st_size / 1e6
        n = json.loads((folder / "metrics/evaluate.json").read_text(encoding="utf-8"))["n"]
    print(f"\n{n:,} test and {2 * n:,} training products, {options.rounds} rounds\n")
    print("| stage | seconds, median (range) | peak memory |\n|---|---|---|")
    for stage, rounds in found.items():
        seconds = [elapsed_s for elapsed_s, _ in rounds]
        print(
            f"| {stage} | {statistics.median(seconds):.1f} ({min(seconds):.1f} to "
            f"{max(seconds):.1f}) | {max(peak_gib for _, peak_gib in rounds):.2f} GiB |"
        )
    print(f"\nreport: {size:.1f} MB")


if __name__ == "__main__":
    main()
