"""Products per second and peak memory: the reference loop, a bare batched pass, and `pricer`.

The same weights and products for all three. Times are taken in one process, in rounds, so that a
busy machine slows them alike: the ratios count. Memory is taken in a process of its own for each.

    python -m bench.predict                        # the adapter that `make repro` left
    python -m bench.predict --shape llama-3.2-1b   # random weights in that shape, for a GPU
"""

import argparse
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pricer.files import read_parquet
from pricer.model.base import choose_device, choose_dtype
from pricer.prices.predictor import Predictor
from pricer.prices.record import ServingRecord
from pricer.products.prompts import build_prompt, encode_prompts

BATCH_SIZE = 32
SETTINGS = ServingRecord(batch_size=BATCH_SIZE)
VOCABULARY = 128_256
SHAPES = {  # of meta-llama/Llama-3.2-1B and 3B
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "llama-3.2-3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
    },
}


@dataclass(frozen=True)
class Work:
    """What is loaded and priced; plain values, which travel to another process."""

    base: Path
    adapter: Path
    prompts: list[str]
    new_tokens: int  # of the reference loop


Run = Callable[[list[str]], object]


def load_as_the_notebooks(base: Path) -> PreTrainedModel:
    """Load a base model in nf4 with nothing of ours."""
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantization, device_map={"": device}, dtype=dtype
    )


def reference_loop(work: Work) -> Run:
    """One product at a time, greedy text, nothing of ours."""
    base = load_as_the_notebooks(work.base)
    model = PeftModel.from_pretrained(base, str(work.adapter))
    tokenizer = AutoTokenizer.from_pretrained(work.base)

    @torch.no_grad()
    def run(prompts: list[str]) -> None:
        for prompt in prompts:
            inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
            model.generate(**inputs, max_new_tokens=work.new_tokens, do_sample=False)

    return run


def bare_pass(work: Work) -> Run:
    """One forward pass over the same batches, logits of the last position, nothing read out."""
    predictor = Predictor(work.base, work.adapter, settings=SETTINGS)
    model, tokenizer = predictor.model, predictor.tokenizer

    @torch.inference_mode()
    def run(prompts: list[str]) -> None:
        encoded = sorted(encode_prompts(tokenizer, prompts), key=len, reverse=True)
        for start in range(0, len(encoded), BATCH_SIZE):
            rows = encoded[start : start + BATCH_SIZE]
            longest = len(rows[0])
            ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
            model(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                use_cache=False,
                logits_to_keep=1,
            )

    return run


def every_price(work: Work) -> Run:
    """The whole distribution, as the `predict` stage reads it, without the greedy text."""
    predictor = Predictor(work.base, work.adapter, settings=SETTINGS)
    return predictor.distributions


WAYS: dict[str, Callable[[Work], Run]] = {
    "reference loop": reference_loop,
    "bare batched pass": bare_pass,
    "pricer, every price": every_price,
}


def products_per_second(work: Work, rounds: int) -> dict[str, list[float]]:
    """Return the rate of each way in each round."""
    runs = {name: way(work) for name, way in WAYS.items()}
    for run in runs.values():
        run(work.prompts[:2])  # libraries set themselves up on the first call
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(work.prompts)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            rates[name].append(len(work.prompts) / (time.perf_counter() - started))
    return rates


def peak_memory(name: str, work: Work) -> tuple[float, float]:
    """Return what one way takes at most, loading included: GiB of memory, GiB of a GPU's."""
    WAYS[name](work)(work.prompts)
    return peak_memory_here()


def peak_memory_here() -> tuple[float, float]:
    """Return what this process has taken at most: GiB of memory, GiB of a GPU's."""
    # not getrusage: what it says of a new process begins with what the parent held
    status = Path("/proc/self/status").read_text()
    [resident_kib] = map(int, re.findall(r"VmHWM:\s+(\d+)", status))
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return resident_kib / 2**20, gpu / 2**30


def reproduced(products: int) -> Work:
    """Return the adapter and the test products that `make repro` left."""
    prompts = read_parquet(Path("data/prompts/test.parquet"))["prompt"].head(products)
    return Work(Path("data/base_model"), Path("data/adapter"), prompts.tolist(), new_tokens=8)


def random_weights(shape: str, folder: Path, products: int) -> Work:
    """Save random weights in a Llama's shape, and a vocabulary in which 0 to 999 are one token.

    The text is nonsense of the usual length, 60 to 110 tokens. A tuned Llama ends after four
    tokens ("219", ".", "00", end); random weights do not, so the reference loop is stopped there.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c + d for a in letters for b in letters for c in letters for d in letters]
    known = ["<|end|>", "<unk>", *map(str, range(1000)), "Price", "is", "$", ".", "00"]
    known += words[: VOCABULARY - len(known)]
    ids = {word: number for number, word in enumerate(known)}
    splitter = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    splitter.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]"), behavior="removed", invert=True
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitter, eos_token="<|end|>")
    tokenizer.save_pretrained(folder / "base_model")
    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with choose_device("auto"):  # three billion random numbers are quicker made there
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "base_model")
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]  # the reference recipe's lite adapter
    lora = LoraConfig(r=32, lora_alpha=64, target_modules=attention, task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    rng = random.Random(0)
    summaries = [" ".join(rng.choices(words, k=rng.randint(60, 110))) for _ in range(products)]
    prompts = [build_prompt(summary) for summary in summaries]
    return Work(folder / "base_model", folder / "adapter", prompts, new_tokens=4)


def print_table(rates: dict[str, list[float]], memory: dict[str, tuple[float, float]]) -> None:
    """Print a Markdown table: medians with their range, and medians of each round's ratios."""
    print("| way | products/s | times the reference | times the bare pass | memory | GPU memory |")
    print("|---|---|---|---|---|---|")
    for name, found in rates.items():
        times = [
            statistics.median(one / two for one, two in zip(found, rates[other], strict=True))
            for other in ("reference loop", "bare batched pass")
        ]
        print(
            f"| {name} | {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f}) "
            f"| {times[0]:.2f} | {times[1]:.2f} "
            f"| {memory[name][0]:.2f} GiB | {memory[name][1]:.2f} GiB |"
        )


def main() -> None:
    """Measure memory, then time, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, help="random weights, not data/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.shape:
            work = random_weights(options.shape, Path(folder), options.products)
        else:
            work = reproduced(options.products)
        memory = {}
        for name in WAYS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own_process:
                memory[name] = own_process.submit(peak_memory, name, work).result()
        rates = products_per_second(work, options.rounds)
    device = choose_device("auto")
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    print(f"\n{options.shape or 'data/adapter'}, {len(work.prompts)} products, ", end="")
    print(f"{options.rounds} rounds, {device} ({where}), {choose_dtype('auto', device)}\n")
    print_table(rates, memory)


if __name__ == "__main__":
    main()
