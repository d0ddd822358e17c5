"""train: a LoRA adapter on the quantized base model, resumed where it was interrupted."""

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pricer.files import read_parquet, write_json, writing
from pricer.launch import first_here, join, launched
from pricer.model.adapters import save_adapter
from pricer.model.base import (
    choose_device,
    choose_dtype,
    dtype_name,
    load_base_model,
    load_tokenizer,
)
from pricer.params import Section, flat_params, read_params
from pricer.provenance import code_files
from pricer.training.card import adapter_card, base_model_name
from pricer.training.checkpoints import alone, lasting_root, run_fingerprint
from pricer.training.checks import (
    check_backup,
    check_calibration,
    check_optimizer,
    check_trackers,
)
from pricer.training.machines import check_same_run, own_folder
from pricer.training.published import is_published, take_published
from pricer.training.run import Run, fit, whole_model
from pricer.training.trackers import Logged, no_curves

# of params.yaml: what shapes a run
SECTIONS = ("compute", "quantization", "lora", "train")


def main(
    prompts_dir: Path,
    base_model_dir: Path,
    fetched_dir: Path,
    adapter_dir: Path,
    metrics_file: Path,
    curves_dir: Path,
) -> None:
    """Write the adapter to `adapter_dir`, the losses to `metrics_file` and `curves_dir`.

    One that was trained elsewhere is put there as it is.
    """
    params = read_params()
    if is_published(fetched_dir):
        with writing(adapter_dir, folder=True) as partial_adapter:
            origin = take_published(params, fetched_dir, base_model_dir, partial_adapter)
        with writing(curves_dir, folder=True) as partial_curves:
            no_curves(partial_curves)
        write_json(metrics_file, {"steps": 0})
        print(f"nothing is trained: the adapter is {origin}")
        return
    compute = params.compute
    device = choose_device(compute.device)
    dtype = choose_dtype(compute.dtype, device)
    check_optimizer(params.train.optim, device=device.type)
    check_trackers(params.train.report_to)
    check_backup(params.train.backup)
    if launched(compute, device=device.type):
        return
    rank, _ = join(device.type)
    validation_prompts = read_parquet(prompts_dir / "validation.parquet")
    check_calibration(params.train, len(validation_prompts))
    sections = {name: getattr(params, name) for name in SECTIONS}
    run = Run(
        params.lora,
        params.train,
        dtype,
        load_tokenizer(base_model_dir),
        train_prompts=read_parquet(prompts_dir / "train.parquet"),
        validation_prompts=validation_prompts,
        checkpoints=_checkpoints(sections, [prompts_dir, base_model_dir], device, dtype),
    )
    logged = Logged(
        curves_dir,
        names=params.train.report_to,
        folder=lasting_root(Path()) / ".trackers",
        run_name=params.train.run_name or run.checkpoints.name,
        tags=params.train.tags,
        params=flat_params(sections),
    )
    load = partial(
        load_base_model,
        base_model_dir,
        device=device,
        dtype=dtype,
        quantization=params.quantization,
        quant_storage=dtype if compute.strategy == "fsdp" else None,
        dequantize=compute.dequantize,
    )
    with ExitStack() as first_alone:
        if rank == 0:
            first_alone.enter_context(alone(run.checkpoints))
        if first_here():
            curves = first_alone.enter_context(writing(curves_dir, folder=True))
            logged = replace(logged, curves=curves)
        started = time.perf_counter()
        trainer, metrics, resumed_step = fit(load, run, logged)
        elapsed_s = time.perf_counter() - started
        model, weights = whole_model(trainer)
    if not first_here():
        return
    with writing(adapter_dir, folder=True) as partial_adapter:
        base_model = base_model_name(base_model_dir)
        save_adapter(model, partial_adapter, base_model=base_model, weights=weights)
        card = adapter_card(params, base_model_dir, prompts_dir)
        (partial_adapter / "README.md").write_text(card, encoding="utf-8")
    write_json(metrics_file, metrics)
    steps = metrics["steps"] - resumed_step
    print(
        f"{steps} steps in {elapsed_s:.0f} s, loading and evaluation included; on the validation "
        f"products: loss {metrics['validation_loss']:.3f}, MAE ${metrics['validation_mae']:.2f}"
    )


def _checkpoints(
    sections: dict[str, Section], data: list[Path], device: torch.device, dtype: torch.dtype
) -> Path:
    """Return the folder of all runs that end with the same adapter."""
    name = run_fingerprint(
        sections,
        data,
        code_files(),
        machine={
            "device": device.type,
            "dtype": dtype_name(dtype),
            "threads": torch.get_num_threads(),
        },
    )
    run = lasting_root(Path()) / ".checkpoints" / name
    check_same_run(run)
    return own_folder(run)
