"""Products per second: the reference loop, a bare batched forward pass, and `pricer`.

The same tuned weights, products and process for all three, in rounds, so that a busy machine
slows them alike: `python -m bench.predict --products 64 --rounds 3`. The ratios count.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from pricer.base_model import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.files import read_parquet
from pricer.params import read_params
from pricer.predictor import load_adapter, predict_distributions
from pricer.prompts import encode_prompts

BASE, ADAPTER = Path("data/base_model"), Path("data/adapter")


def reference_model(device: torch.device, dtype: torch.dtype) -> PeftModel:
    """Load base model and adapter as the notebooks do, with nothing of ours."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        BASE, quantization_config=quantization, device_map={"": device}, dtype=dtype
    )
    return PeftModel.from_pretrained(model, str(ADAPTER))


@torch.no_grad()
def reference_loop(model: PeftModel, tokenizer, prompts: list[str]) -> None:
    """One product at a time, eight new tokens, as the reference recipe evaluates."""
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        model.generate(**inputs, max_new_tokens=8, do_sample=False)


@torch.inference_mode()
def bare_pass(
    model: PreTrainedModel | PeftModel, tokenizer, prompts: list[str], batch_size: int
) -> None:
    """One forward pass over the same batches, logits of the last position, nothing read out."""
    encoded = sorted(encode_prompts(tokenizer, prompts), key=len, reverse=True)
    for start in range(0, len(encoded), batch_size):
        rows = encoded[start : start + batch_size]
        longest = len(rows[0])
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
            logits_to_keep=1,
        )


def main() -> None:
    """Print a Markdown table: products per second, median of the rounds, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    params = read_params()
    device = choose_device(params.quantization.device)
    dtype = choose_dtype(params.quantization.dtype, device)
    tokenizer = load_tokenizer(BASE)
    quantization = params.quantization.model_dump(exclude={"device", "dtype"})
    base = load_base_model(BASE, device=device, dtype=dtype, **quantization)
    model = load_adapter(base, ADAPTER, dtype)
    reference = reference_model(device, dtype)
    prompts = read_parquet(Path("data/prompts/test.parquet"))["prompt"].head(options.products)
    texts, size = prompts.tolist(), params.predict.batch_size
    settings = params.predict.model_dump(include={"max_price", "max_dropped_mass", "batch_size"})

    ways: dict[str, Callable[[list[str]], object]] = {
        "reference loop": lambda some: reference_loop(reference, tokenizer, some),
        "bare batched pass": lambda some: bare_pass(model, tokenizer, some, size),
        "pricer, every price's probability": lambda some: predict_distributions(
            model, tokenizer, some, max_new_tokens=0, **settings
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run(texts[:2])  # libraries set themselves up on the first call
    for _ in range(options.rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            run(texts)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rates[name].append(len(texts) / (time.perf_counter() - started))
    print(f"\n{len(texts)} products, {options.rounds} rounds, {device}, {dtype}\n")
    print("| way | products/s, median (range) | against the reference loop |\n|---|---|---|")
    for name, found in rates.items():
        paired = [one / other for one, other in zip(found, rates["reference loop"], strict=True)]
        print(
            f"| {name} | {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f}) "
            f"| {statistics.median(paired):.2f} |"
        )
    share = statistics.median(
        one / other for one, other in zip(*(rates[name] for name in list(ways)[:0:-1]), strict=True)
    )
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npricer against the bare pass: {share:.2f}; peak memory: {peak_gib:.2f} GiB")


if __name__ == "__main__":
    main()
