"""train: a LoRA adapter on the quantized base model, resumed where it was interrupted."""

import time
from pathlib import Path

import torch

from pricer.base_model import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.checkpoints import (
    alone,
    checkpoint_step,
    checkpoints_root,
    find_start,
    require_space,
    run_fingerprint,
    space_for_checkpoints,
)
from pricer.errors import run_stage
from pricer.files import read_parquet, write_json, writing
from pricer.model_card import adapter_card
from pricer.params import read_params
from pricer.provenance import code_files
from pricer.training import build_trainer, run_training, save_adapter


def main(
    prompts_dir: Path,
    base_model_dir: Path,
    adapter_dir: Path,
    metrics_file: Path,
    curves_dir: Path,
) -> None:
    """Write the adapter to `adapter_dir`, the losses to `metrics_file` and `curves_dir`."""
    params = read_params()
    device = choose_device(params.quantization.device)
    dtype = choose_dtype(params.quantization.dtype, device)
    quantization = params.quantization.model_dump(exclude={"device", "dtype"})
    run = checkpoints_root(Path()) / run_fingerprint(
        {"lora": params.lora, "train": params.train, "quantization": params.quantization},
        [prompts_dir, base_model_dir],
        [*code_files(), Path(__file__)],
        machine={"device": str(device), "threads": torch.get_num_threads()},
    )
    with alone(run), writing(curves_dir, folder=True) as partial_curves:
        checkpoint, how = find_start(run)
        print(f"training on {device} in {dtype}, {how}".replace("torch.", ""), flush=True)
        trainer = build_trainer(
            load_base_model(base_model_dir, device=device, dtype=dtype, **quantization),
            load_tokenizer(base_model_dir),
            read_parquet(prompts_dir / "train.parquet"),
            read_parquet(prompts_dir / "validation.parquet"),
            lora=params.lora,
            train=params.train,
            dtype=dtype,
            checkpoints=run,
            curves=partial_curves,
        )
        if params.train.save_strategy == "steps":
            parameters = trainer.model.get_nb_trainable_parameters()[0]
            limit = params.train.save_total_limit
            require_space(run, space_for_checkpoints(run, parameters, limit))
        started = time.perf_counter()
        metrics = run_training(trainer, checkpoint)
        elapsed_s = time.perf_counter() - started
    with writing(adapter_dir, folder=True) as partial:
        save_adapter(trainer, partial, base_model=str(base_model_dir))
        card = adapter_card(params, base_model_dir, prompts_dir)
        (partial / "README.md").write_text(card, encoding="utf-8")
    write_json(metrics_file, metrics)
    done = checkpoint_step(checkpoint) if checkpoint else 0
    share = 1 - done / metrics["steps"]
    examples = metrics["examples"] * params.train.num_train_epochs * share
    print(
        f"{metrics['steps'] - done} steps, {examples / elapsed_s:.1f} examples/s, evaluation "
        f"included; validation loss {metrics['validation_loss']:.3f}"
    )


if __name__ == "__main__":
    run_stage("train", main)
