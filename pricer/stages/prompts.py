"""prompts: items to prompts and completions, with token counts."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pricer.evidence.table import read_evidence_parts
from pricer.evidence.wording import wording
from pricer.files import write_json, write_parquet_parts, writing
from pricer.judging.figures import token_histogram
from pricer.model.base import load_tokenizer
from pricer.model.folder import check_window, read_config
from pricer.params import read_params
from pricer.products.items import SPLITS, read_item_parts
from pricer.products.prompts import (
    COLUMNS,
    COUNTS,
    build_prompts,
    check_max_length,
    token_statistics,
    told_of_cuts,
)


def main(
    items_dir: Path, evidence_dir: Path, base_model_dir: Path, prompts_dir: Path, metrics_dir: Path
) -> None:
    """Write one Parquet file a split to `prompts_dir`, statistics and charts to `metrics_dir`."""
    told, params = read_params().evidence, read_params().prompts
    tokenizer = load_tokenizer(base_model_dir)
    check_window(read_config(base_model_dir), params.max_length, str(base_model_dir))
    counts: list[pd.DataFrame] = []

    def prompts(split: str) -> Iterator[pd.DataFrame]:
        parts = zip(
            read_item_parts(items_dir, split, ["id", "summary", "price"]),
            read_evidence_parts(evidence_dir, split),
            strict=True,
        )
        for items, evidence in parts:
            table = build_prompts(
                tokenizer,
                items,
                wording(evidence, neighbors=told.neighbors, words=told.words),
                cutoff=params.cutoff,
                rounded=params.round_prices,
                # judged on exact prices, whatever it was trained on
                exact=split == "test",
            )
            counts.append(table[COUNTS])
            yield table[COLUMNS]

    with writing(prompts_dir, folder=True) as partial:
        for split in SPLITS:
            write_parquet_parts(partial / f"{split}.parquet", prompts(split))
        every = pd.concat(counts)
        check_max_length(every, cutoff=params.cutoff, max_length=params.max_length)
    statistics = token_statistics(every)
    write_json(metrics_dir / "prompts.json", statistics)
    token_histogram(
        metrics_dir / "summary_tokens.png",
        every["summary_tokens"],
        limit=params.cutoff,
        title="Tokens of a summary before the cutoff",
    )
    token_histogram(
        metrics_dir / "example_tokens.png",
        every["prompt_tokens"] + every["completion_tokens"],
        limit=params.max_length,
        title="Tokens of prompt and completion",
    )
    print(
        f"{statistics['n']} prompts, {statistics['truncated']} truncated to {params.cutoff} "
        f"tokens{told_of_cuts(every)}; "
        f"longest example {statistics['example_tokens_max']} of {params.max_length} tokens"
    )
