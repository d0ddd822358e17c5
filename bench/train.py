"""Examples per second, peak memory and use of the hardware: the stock recipe, and `pricer`.

The stock recipe is TRL's `SFTTrainer` as the notebooks set it up: whole sequences padded to 128
tokens, the library's own loss. Same weights, adapter, optimizer, examples in the same order.
Times are taken in one process, in rounds, so that a busy machine slows both alike. Memory is taken
in a process of its own for each.

    python -m bench.train                        # the base model and prompts of `make repro`
    python -m bench.train --shape llama-3.2-3b   # random weights in that shape, for a GPU
"""

import argparse
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from bench.predict import SHAPES, load_as_the_notebooks, peak_memory_here, random_weights
from pricer.files import read_parquet
from pricer.model.base import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.model.fused import UNREAD
from pricer.model.lora import lora_config
from pricer.params import Params, read_params
from pricer.prices.batches import contiguous_output_layer
from pricer.products.prompts import build_completion
from pricer.training.checkpoints import all_checkpoints
from pricer.training.examples import IGNORED, EpochOrder
from pricer.training.run import Run, build_trainer
from pricer.training.trackers import Logged, Trackers

PADDED = 128


@dataclass(frozen=True)
class Work:
    """What is trained on; plain values, which travel to another process."""

    base: Path
    prompts: pd.DataFrame  # in the order that they are trained on
    validation: pd.DataFrame
    folder: Path
    steps: int

    @property
    def params(self) -> Params:
        """The committed ones, for that many steps and without checkpoints in between."""
        params = read_params()
        train = params.train.model_copy(
            update={
                "save_strategy": "no",
                "logging_steps": 1,
                "optim": "adamw_torch",
            }
        )
        return params.model_copy(update={"train": train})


def stock(work: Work) -> SFTTrainer:
    """Set up as the notebooks do, with nothing of ours but the layers that are adapted."""
    params, device = work.params, choose_device("auto")
    dtype, train = choose_dtype("auto", device), params.train
    model = load_as_the_notebooks(work.base)
    tokenizer = AutoTokenizer.from_pretrained(work.base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    args = SFTConfig(
        output_dir=str(work.folder / "stock"),
        num_train_epochs=1,
        per_device_train_batch_size=train.per_device_train_batch_size,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optim,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        max_length=PADDED,
        pad_to_multiple_of=PADDED,
        activation_checkpointing=train.activation_checkpointing,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=train.seed,
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
    )
    set_seed(train.seed)
    return SFTTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_pandas(work.prompts[["prompt", "completion"]]),
        peft_config=lora_config(model, params.lora),
    )


def loaded(work: Work) -> PreTrainedModel:
    """Load the base model as the `train` stage does."""
    device = choose_device("auto")
    return load_base_model(
        work.base,
        device=device,
        dtype=choose_dtype("auto", device),
        quantization=work.params.quantization,
    )


def ours(work: Work, model: PreTrainedModel | None = None) -> SFTTrainer:
    """Set up as the `train` stage does."""
    params, device = work.params, choose_device("auto")
    dtype = choose_dtype("auto", device)
    run = Run(
        params.lora,
        params.train,
        dtype,
        load_tokenizer(work.base),
        train_prompts=work.prompts,
        validation_prompts=work.validation,
        checkpoints=work.folder / "checkpoints",
    )
    logged = Logged(work.folder / "curves", [], work.folder, "bench", tags=[], params={})
    return build_trainer(model or loaded(work), run, Trackers(logged))


WAYS: dict[str, Callable[[Work], SFTTrainer]] = {"stock recipe": stock, "pricer": ours}


class Steps(TrainerCallback):
    """When each step ended, and its loss; no evaluation, no checkpoint."""

    def __init__(self, last: int | None = None) -> None:
        """Take after which step to leave the run; None for its end."""
        self.last = last
        self.ended: list[float] = []
        self.losses: list[float] = []

    def on_step_end(  # noqa: D102
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended.append(time.perf_counter())
        control.should_evaluate = control.should_save = False
        if state.global_step == self.last:
            control.should_training_stop = True

    def on_log(  # noqa: D102
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def train_once(
    trainer: SFTTrainer, name: str, checkpoint: Path | None = None, **until: int
) -> Steps:
    """Train over all examples, in the order that they have; return what was seen."""
    steps = Steps(**until)
    trainer.add_callback(steps)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    with contiguous_output_layer(trainer.model) if name == "pricer" else nullcontext():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.remove_callback(steps)
    return steps


def peak_memory(name: str, work: Work) -> tuple[float, float]:
    """Return what one way takes at most, loading included: GiB of memory, GiB of a GPU's."""
    train_once(WAYS[name](work), name)
    return peak_memory_here()


def useful_flops(trainer: SFTTrainer) -> float:
    """Return the floating-point operations that all examples need, padding left out.

    A frozen weight takes 2 a token forward, and 2 for the gradient of what went in; a trained one
    2 more for its own gradient. The output layer runs where a completion is predicted, and the last
    layer needs no more than keys and values elsewhere. Attention scores and their use take 4 a pair
    of tokens and hidden unit forward, twice that backward, for half of all pairs (Chowdhery et al.
    2022, PaLM, appendix B, without weight gradients).
    """
    config = trainer.model.config
    weights = {  # a token's, by layer
        name: (6 if "lora_" in name else 4) * module.in_features * module.out_features
        for name, module in trainer.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }
    last = re.compile(rf"\.layers\.{config.num_hidden_layers - 1}\.({'|'.join(UNREAD)})")
    where_predicted = sum(flops for name, flops in weights.items() if last.search(name))
    everywhere = sum(weights.values()) - where_predicted
    head = config.hidden_size * config.vocab_size
    flops = 0
    for example in trainer.train_dataset:
        tokens = len(example["input_ids"])
        counted = sum(label != IGNORED for label in example["labels"])
        pairs = tokens * tokens / 2 * config.num_hidden_layers * config.hidden_size
        flops += everywhere * tokens + (where_predicted + 4 * head) * counted + 12 * pairs
    return flops


def matrix_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Return the floating-point operations a second of a large matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(5):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / 5)
    return 2 * size**3 / min(seconds[1:])


def checkpoint_seconds(trainer: SFTTrainer) -> float:
    """Return the median time that writing a checkpoint takes."""
    seconds = []
    for step in range(1, 6):
        trainer.state.global_step = step
        started = time.perf_counter()
        trainer._save_checkpoint(trainer.model, None)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def resume_seconds(work: Work) -> float:
    """Return the time from a loaded model to the end of the first new step.

    From a checkpoint half-way, so that the sampler has steps to go over.
    """
    whole = ours(work)
    half = work.steps // 2
    train_once(whole, "pricer", last=half)
    whole._save_checkpoint(whole.model, None)
    del whole
    model = loaded(work)
    started = time.perf_counter()
    trainer = ours(work, model)
    checkpoint = all_checkpoints(work.folder / "checkpoints")[0]
    steps = train_once(trainer, "pricer", checkpoint, last=half + 1)
    return steps.ended[0] - started


def reproduced(folder: Path, steps: int) -> Work:
    """Return the base model and the prompts that `make repro` left, grouped by length."""
    prompts, validation = (
        read_parquet(Path(f"data/prompts/{split}.parquet")) for split in ("train", "validation")
    )
    return grouped(Path("data/base_model"), prompts, validation, folder, steps)


def nonsense(shape: str, folder: Path, steps: int) -> Work:
    """Return random weights in a Llama's shape, and prompts of the usual length."""
    count = steps * read_params().train.per_device_train_batch_size
    work = random_weights(shape, folder, count)
    rng = random.Random(0)
    prices = [float(rng.randrange(1, 1000)) for _ in work.prompts]
    prompts = pd.DataFrame(
        {
            "id": range(count),
            "prompt": work.prompts,
            "completion": [build_completion(price, rounded=True) for price in prices],
            "price": prices,
        }
    )
    prompts["prompt_tokens"] = [len(prompt.split()) for prompt in work.prompts]
    return grouped(work.base, prompts, prompts, folder, steps)


def grouped(
    base: Path, prompts: pd.DataFrame, validation: pd.DataFrame, folder: Path, steps: int
) -> Work:
    """Return work in the order that the `train` stage takes examples: of like lengths in a step."""
    batch = read_params().train.per_device_train_batch_size
    prompts = prompts.head(steps * batch)
    order = list(EpochOrder(prompts["prompt_tokens"].tolist(), group=batch, seed=0))
    return Work(base, prompts.iloc[order].reset_index(drop=True), validation, folder, steps)


def main() -> None:
    """Measure memory, then time, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="of a round; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, help="random weights, not data/")
    options = parser.parse_args()
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.shape:
            work = nonsense(options.shape, folder, options.steps)
        else:
            work = reproduced(folder, options.steps)
        memory = {}
        for name in WAYS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own_process:
                memory[name] = own_process.submit(peak_memory, name, work).result()
        trainers = {name: way(work) for name, way in WAYS.items()}
        per_step: dict[str, list[float]] = {name: [] for name in WAYS}
        losses: dict[str, list[float]] = {}
        rates: list[float] = []
        for _ in range(options.rounds):
            for name, trainer in trainers.items():
                seen = train_once(trainer, name)
                per_step[name].append((seen.ended[-1] - seen.ended[0]) / (len(seen.ended) - 1))
                losses.setdefault(name, seen.losses)
            rates.append(matrix_flops(dtype, device))
        batch = work.params.train.per_device_train_batch_size
        flops = useful_flops(trainers["pricer"]) / work.steps
        seconds = statistics.median(per_step["pricer"])
        default = read_params().train
        every = default.save_steps
        share = checkpoint_seconds(trainers["pricer"]) / (every * seconds)
        started = time.perf_counter()
        trainers["pricer"].evaluate()
        judged = (time.perf_counter() - started) / (default.eval_steps * seconds)
        trainers.clear()
        resumed = resume_seconds(work)

    print(f"\n{options.shape or 'data/base_model'}, {work.steps} steps of {batch}, ", end="")
    print(f"{options.rounds} rounds, {device}, {torch.get_num_threads()} threads, {dtype}\n")
    print("| way | examples/s | times the stock recipe | memory | GPU memory |")
    print("|---|---|---|---|---|")
    for name, found in per_step.items():
        times = [one / two for one, two in zip(per_step["stock recipe"], found, strict=True)]
        print(
            f"| {name} | {batch / statistics.median(found):.2f} "
            f"({batch / max(found):.2f} to {batch / min(found):.2f}) "
            f"| {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) "
            f"| {memory[name][0]:.2f} GiB | {memory[name][1]:.2f} GiB |"
        )
    used = [flops / step / rate for step, rate in zip(per_step["pricer"], rates, strict=True)]
    print(f"\nmodel FLOPs over those of a large matrix product: {statistics.median(used):.0%}")
    print(f"checkpoints, one every {every} steps: {share:.1%} of the time")
    print(
        f"loss and dollars of {default.validation_size} validation products, "
        f"every {default.eval_steps} steps: {judged:.1%} of the time"
    )
    print(f"resumed: first new step {resumed:.1f} s after the model was loaded")
    print("losses by step in the first round:")
    for name, values in losses.items():
        print(f"  {name:<12} " + " ".join(f"{value:.3f}" for value in values))


if __name__ == "__main__":
    main()
