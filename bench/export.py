"""What each way to take the model along costs in dollars, bytes and time: docs/export.md.

    python -m bench.export --products 150

The adapter on the quantized base, merged weights and GGUF files price the same test products.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pricer.export.gguf_file import write_gguf
from pricer.export.llama_cpp import greedy_text, llama_server, read_distributions
from pricer.export.merging import merge, save_merged
from pricer.export.trained import merged_settings
from pricer.files import read_parquet
from pricer.judging.paired import Bootstrap, mean_intervals, paired_gaps
from pricer.model.base import DTYPES, load_tokenizer
from pricer.prices.distribution import median
from pricer.prices.predictions import parse_price
from pricer.prices.predictor import Predictor
from pricer.prices.record import ServingRecord, read_record
from pricer.prices.trie import build_price_trie
from pricer.products.prompts import encode_prompts
from pricer.tables import interval_text, signed_interval, table, usd
from pricer.workspace import Workspace

TIMED = 30  # products whose greedy text alone is timed in llama.cpp
BOOTSTRAP = Bootstrap(2_000, 42)
Floats = NDArray[np.float64]


def main() -> None:
    """Price the test products in every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=150)
    products = parser.parse_args().products
    left = Workspace()
    test = read_parquet(left.prompts / "test.parquet", ["id", "price", "prompt"]).head(products)
    prompts = test["prompt"].tolist()
    record = read_record(left.record).model_copy(
        update=dict.fromkeys(("evidence", "base_model_sha256", "adapter_sha256", "calibration"))
    )
    rows: dict[str, tuple[Floats, Floats, int, float, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = (left.adapter / "adapter_model.safetensors").stat().st_size
        rows["adapter on the 4-bit base"] = _ours(
            Predictor(left.base_model, left.adapter, settings=record), prompts, size
        )
        for stored, computed in (("bfloat16", "bfloat16"), ("float16", "float32")):
            merged = folder / stored
            _merge(left, record, stored, merged)
            asked = merged_settings(record).model_copy(update={"dtype": computed})
            size = sum(file.stat().st_size for file in merged.glob("*.safetensors"))
            rows[f"merged, {stored}"] = _ours(Predictor(merged, settings=asked), prompts, size)
        for kind in ("f16", "q8_0", "q4_0"):
            file = folder / f"{kind}.gguf"
            write_gguf(folder / "float16", file, kind)
            rows[f"GGUF, {kind}"] = _theirs(left, file, prompts)
            print(_shown(test, rows), flush=True)


def _merge(left: Workspace, record: ServingRecord, stored: str, folder: Path) -> None:
    folder.mkdir()
    model = merge(
        left.base_model,
        left.adapter,
        record,
        onto="trained",
        dtype=DTYPES[stored],  # type: ignore[index]
    )
    save_merged(model, load_tokenizer(left.base_model), left.base_model, folder, max_new_tokens=8)


def _ours(
    predictor: Predictor, prompts: list[str], size: int
) -> tuple[Floats, Floats, int, float, float]:
    """Return medians, greedy estimates (USD), bytes, and products a second of either alone."""
    started = time.perf_counter()
    found = predictor.distributions(prompts)
    read_s = time.perf_counter() - started
    started = time.perf_counter()
    texts = predictor.distributions(prompts, greedy=True).greedy_texts
    greedy_s = time.perf_counter() - started
    greedy = np.array([parse_price(text) or 0.0 for text in texts])
    speeds = len(prompts) / read_s, len(prompts) / greedy_s
    return median(found.probabilities), greedy, size, *speeds


def _theirs(
    left: Workspace, file: Path, prompts: list[str]
) -> tuple[Floats, Floats, int, float, float]:
    tokenizer = load_tokenizer(left.base_model)
    trie = build_price_trie(tokenizer, 999)
    longest = max(map(len, encode_prompts(tokenizer, prompts)))
    timed = prompts[:TIMED]
    with llama_server(file, tokens=longest) as client:
        started = time.perf_counter()
        for prompt in timed:
            greedy_text(client, prompt, max_new_tokens=8)
        greedy_s = time.perf_counter() - started
    medians, texts = [], []
    with llama_server(file, tokens=longest) as client:
        started = time.perf_counter()
        for prompt in prompts:  # its tokens are read once for both
            medians.append(
                median(read_distributions(client, tokenizer, trie, [prompt]).probabilities)
            )
            texts.append(greedy_text(client, prompt, max_new_tokens=8))
        read_s = time.perf_counter() - started
    greedy = np.array([parse_price(text) or 0.0 for text in texts])
    speeds = len(prompts) / read_s, len(timed) / greedy_s
    return np.concatenate(medians), greedy, file.stat().st_size, *speeds


def _shown(test: pd.DataFrame, rows: dict[str, tuple[Floats, Floats, int, float, float]]) -> str:
    price = test["price"].to_numpy(float)
    errors = {name: np.abs(row[0] - price) for name, row in rows.items()}
    ends = mean_intervals(test["id"], errors, BOOTSTRAP)
    first, *_ = errors
    gaps = paired_gaps(
        test["id"], {name: error - errors[first] for name, error in errors.items()}, BOOTSTRAP
    )
    lines = []
    for name, (_, greedy, size, reading, asking) in rows.items():
        gap = gaps[name]
        lines.append(
            [
                name,
                usd(float(errors[name].mean())),
                interval_text(ends[name].low, ends[name].high),
                ""
                if name == first
                else signed_interval(gap.value, gap.interval.low, gap.interval.high),
                usd(float(np.abs(greedy - price).mean())),
                f"{size / 1e6:,.0f}",
                f"{reading:.2f}",
                f"{asking:.2f}",
            ]
        )
    header = ["", "MAE of the median", "95% interval", "less the adapter's", "MAE of greedy text"]
    header += ["MB", "distributions a second", "with greedy text a second"]
    return f"\nn = {len(test)}, {torch.get_num_threads()} threads\n{table(header, lines)}"


if __name__ == "__main__":
    main()
