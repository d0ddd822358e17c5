"""Items per second of the `prompts` stage against the reference recipe's loop, one run.

The loop is the notebooks': each item's summary is encoded, cut by decoding its first tokens where
it has more than the cutoff, and the tokens of prompt and completion are counted by encoding both.
Times are taken in one process, in rounds of both, so that a busy machine slows them alike.

The products are the catalogue's; one in twenty goes on in Japanese, whose characters take several
tokens each, so that some cuts fall within a character.

    python -m bench.prompts                                # on what `make repro` left
    python -m bench.prompts --products 20000 --cutoff 60   # a tenth cut, not a twentieth
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from pricer.model.base import load_tokenizer
from pricer.products.catalog_source import catalog_items
from pricer.products.prompts import PREFIX, QUESTION, build_prompts, encode_prompts

JAPANESE = "お手入れ簡単なステンレス製の電気ケトル 🫖 やかんを囲んで皆様でお楽しみください。"

Row = tuple[str, str, int]  # prompt, completion, tokens of both


def reference_loop(
    tokenizer: PreTrainedTokenizerBase, items: pd.DataFrame, cutoff: int
) -> list[Row]:
    """Make and count prompts one item at a time, as the notebooks do, with nothing of ours."""
    rows = []
    for summary, price in zip(items["summary"].tolist(), items["price"].tolist(), strict=True):
        tokens = tokenizer.encode(summary, add_special_tokens=False)
        if len(tokens) > cutoff:
            summary = tokenizer.decode(tokens[:cutoff])
        prompt = f"{QUESTION}\n\n{summary}\n\n{PREFIX}"
        completion = f"{round(price)}.00"
        count = len(tokenizer.encode(prompt + completion, add_special_tokens=False))
        rows.append((prompt, completion, count))
    return rows


def pricer_rows(tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame) -> list[Row]:
    """Return the stage's prompts table as what the reference has."""
    # the reference counts neither the begin-of-text nor the end-of-text token
    begin = len(encode_prompts(tokenizer, ["x"])[0]) - len(tokenizer.tokenize("x"))
    tokens = table["prompt_tokens"] + table["completion_tokens"] - begin - 1
    return list(zip(table["prompt"], table["completion"], tokens, strict=True))


def differences(reference: list[Row], ours: list[Row]) -> dict[str, int]:
    """Count the items whose prompts or counts differ, by why.

    A cut within a character leaves the reference with a replacement character in place of the
    part, which no text to price ever has; ours leaves the character out.
    """
    found = {"same": 0, "cut within a character": 0, "other": 0}
    for (prompt, completion, tokens), (own_prompt, own_completion, own_tokens) in zip(
        reference, ours, strict=True
    ):
        same = (prompt, completion, tokens) == (own_prompt, own_completion, own_tokens)
        replaced = prompt.replace("\ufffd", "") == own_prompt and completion == own_completion
        found["same" if same else "cut within a character" if replaced else "other"] += 1
    return found


def main() -> None:
    """Compare the prompts byte for byte, then time both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=10_000, help="of the catalogue")
    parser.add_argument("--cutoff", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base-model", type=Path, default=Path("data/base_model"))
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.base_model)
    sizes = {"train": options.products, "validation": 1, "test": 1}
    items = catalog_items(sizes, seed=42, noise=0.1, min_price=0.5, max_price=999.49)[0]["train"]
    items.loc[items.index % 20 == 0, "summary"] += f"\n{JAPANESE}"
    ways: dict[str, Callable[[], Any]] = {
        "reference loop": lambda: reference_loop(tokenizer, items, options.cutoff),
        "pricer": lambda: build_prompts(tokenizer, items, cutoff=options.cutoff, rounded=True),
    }
    rows, table = (way() for way in ways.values())
    cut = int(table["truncated"].sum())
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            rates[name].append(len(items) / (time.perf_counter() - started))
    print(f"\n{len(items):,} products, cutoff {options.cutoff} ({cut:,} cut), ", end="")
    print(f"{options.rounds} rounds\n")
    print("| way | items/s, median (range) | times the reference |\n|---|---|---|")
    for name, found in rates.items():
        times = statistics.median(
            one / two for one, two in zip(found, rates["reference loop"], strict=True)
        )
        print(
            f"| {name} | {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) "
            f"| {times:.1f} |"
        )
    counted = ", ".join(
        f"{name} {count:,}"
        for name, count in differences(rows, pricer_rows(tokenizer, table)).items()
    )
    print(f"\nprompt, completion and tokens, item by item: {counted}")


if __name__ == "__main__":
    main()
