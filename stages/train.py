"""train: a LoRA adapter on the quantized base model."""

import time
from pathlib import Path

from pricer.base_model import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.errors import run_stage
from pricer.files import read_parquet, write_json, writing
from pricer.model_card import adapter_card
from pricer.params import read_params
from pricer.training import build_trainer, run_training, save_adapter


def main(
    prompts_dir: Path,
    base_model_dir: Path,
    adapter_dir: Path,
    metrics_file: Path,
    curves_dir: Path,
    checkpoints_dir: Path,
) -> None:
    """Write the adapter to `adapter_dir`, the losses to `metrics_file` and `curves_dir`."""
    params = read_params()
    device = choose_device(params.quantization.device)
    dtype = choose_dtype(params.quantization.dtype, device)
    quantization = params.quantization.model_dump(exclude={"device", "dtype"})
    print(f"training on {device} in {dtype}".replace("torch.", ""))
    with writing(curves_dir, folder=True) as partial_curves:
        trainer = build_trainer(
            load_base_model(base_model_dir, device=device, dtype=dtype, **quantization),
            load_tokenizer(base_model_dir),
            read_parquet(prompts_dir / "train.parquet"),
            read_parquet(prompts_dir / "validation.parquet"),
            lora=params.lora,
            train=params.train,
            dtype=dtype,
            checkpoints=checkpoints_dir,
            curves=partial_curves,
        )
        started = time.perf_counter()
        metrics = run_training(trainer)
        elapsed_s = time.perf_counter() - started
    with writing(adapter_dir, folder=True) as partial:
        save_adapter(trainer, partial, base_model=str(base_model_dir))
        card = adapter_card(params, base_model_dir, prompts_dir)
        (partial / "README.md").write_text(card, encoding="utf-8")
    write_json(metrics_file, metrics)
    examples = metrics["examples"] * params.train.num_train_epochs
    print(
        f"{metrics['steps']} steps, {examples / elapsed_s:.1f} examples/s, evaluation included; "
        f"validation loss {metrics['validation_loss']:.3f}"
    )


if __name__ == "__main__":
    run_stage("train", main)
