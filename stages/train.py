"""train: a LoRA adapter on the quantized base model, resumed where it was interrupted."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from pricer.files import read_parquet, write_json, writing
from pricer.launch import join, launched
from pricer.model.adapters import save_adapter
from pricer.model.base import choose_device, choose_dtype, load_base_model, load_tokenizer
from pricer.params import flat_params, read_params
from pricer.provenance import code_files
from pricer.stage import run_stage
from pricer.training.card import adapter_card, base_model_name
from pricer.training.checkpoints import alone, lasting_root, run_fingerprint
from pricer.training.run import fit, gathered_weights


def main(
    prompts_dir: Path,
    base_model_dir: Path,
    adapter_dir: Path,
    metrics_file: Path,
    curves_dir: Path,
) -> None:
    """Write the adapter to `adapter_dir`, the losses to `metrics_file` and `curves_dir`."""
    params = read_params()
    device = choose_device(params.compute.device)
    dtype = choose_dtype(params.compute.dtype, device)
    if launched("stages.train", params.compute, device=device.type):
        return
    rank, _ = join(device.type)
    names = ("compute", "quantization", "lora", "train")
    sections = {name: getattr(params, name) for name in names}
    run = (
        lasting_root(Path())
        / ".checkpoints"
        / run_fingerprint(
            sections,
            [prompts_dir, base_model_dir],
            code_files() | {"stages/train.py": Path(__file__)},
            machine={
                "device": device.type,
                "dtype": str(dtype),
                "threads": torch.get_num_threads(),
            },
        )
    )
    with ExitStack() as first_alone:
        curves = curves_dir
        if rank == 0:
            first_alone.enter_context(alone(run))
            curves = first_alone.enter_context(writing(curves_dir, folder=True))
        started = time.perf_counter()
        trainer, metrics, resumed_step = fit(
            partial(
                load_base_model,
                base_model_dir,
                device=device,
                dtype=dtype,
                **params.quantization.model_dump(),
                quant_storage=dtype if params.compute.strategy == "fsdp" else None,
            ),
            load_tokenizer(base_model_dir),
            read_parquet(prompts_dir / "train.parquet"),
            read_parquet(prompts_dir / "validation.parquet"),
            lora=params.lora,
            train=params.train,
            processes=params.compute.processes,
            dtype=dtype,
            checkpoints=run,
            curves=curves,
            trackers=lasting_root(Path()) / ".trackers",
            params=flat_params(sections),
        )
        elapsed_s = time.perf_counter() - started
        weights = gathered_weights(trainer)
    if rank > 0:
        return
    with writing(adapter_dir, folder=True) as partial_adapter:
        base_model = base_model_name(base_model_dir)
        save_adapter(trainer.model, partial_adapter, base_model=base_model, weights=weights)
        card = adapter_card(params, base_model_dir, prompts_dir)
        (partial_adapter / "README.md").write_text(card, encoding="utf-8")
    write_json(metrics_file, metrics)
    steps = metrics["steps"] - resumed_step
    print(
        f"{steps} steps in {elapsed_s:.0f} s, loading and evaluation included; on the validation "
        f"products: loss {metrics['validation_loss']:.3f}, MAE ${metrics['validation_mae']:.2f}"
    )


if __name__ == "__main__":
    run_stage("train", main)
