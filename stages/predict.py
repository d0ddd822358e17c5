"""predict@base, predict@tuned: prices for the test split."""

import time
from pathlib import Path

import pandas as pd

from pricer.base_model import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.errors import run_stage
from pricer.files import read_parquet, write_parquet
from pricer.params import read_params
from pricer.predictor import load_adapter, parse_price, predict_texts


def main(
    prompts_dir: Path, base_model_dir: Path, predictions_file: Path, adapter_dir: Path | None = None
) -> None:
    """Write `predictions_file`; without an adapter the base model predicts."""
    params = read_params()
    device = choose_device(params.quantization.device)
    dtype = choose_dtype(params.quantization.dtype, device)
    quantization = params.quantization.model_dump(exclude={"device", "dtype"})
    model = load_base_model(base_model_dir, device=device, dtype=dtype, **quantization)
    prompts = read_parquet(prompts_dir / "test.parquet")
    started = time.perf_counter()
    texts = predict_texts(
        load_adapter(model, adapter_dir, dtype) if adapter_dir else model,
        load_tokenizer(base_model_dir),
        prompts["prompt"].tolist(),
        batch_size=params.predict.batch_size,
        max_new_tokens=params.predict.max_new_tokens,
    )
    elapsed_s = time.perf_counter() - started
    predictions = pd.DataFrame(
        {
            "id": prompts["id"],
            "price": prompts["price"],
            "greedy_text": texts,
            "greedy": pd.Series([parse_price(text) for text in texts], dtype=float),
        }
    )
    write_parquet(predictions_file, predictions)
    print(
        f"{len(texts)} products, {len(texts) / elapsed_s:.1f} a second, "
        f"{int(predictions['greedy'].isna().sum())} without a number"
    )


if __name__ == "__main__":
    run_stage("predict", main)
