"""On a GPU: every precision trains and predicts, and a resumed run ends with the same bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pricer.files import write_parquet
from pricer.launch import launch_arguments
from pricer.model.adapters import save_adapter
from pricer.model.base import DTYPES, choose_device
from pricer.params import Compute, read_params
from pricer.prices.predictor import Predictor
from pricer.prices.record import ServingRecord
from pricer.training.run import run_training
from tests.conftest import ROOT
from tests.pipeline.conftest import set_params
from tests.quantization import quantization
from tests.training.test_run import TINY
from tests.training.test_run import make_trainer as make_trainer
from tests.training.test_run import prompts as prompts

pytestmark = pytest.mark.cuda
DEVICE = os.environ.get("PRICER_TEST_DEVICE", "cuda")  # cpu: to try these tests themselves
LONGER = {"num_train_epochs": 3, "eval_steps": 10, "save_strategy": "steps", "save_steps": 5}


@pytest.fixture
def make_on_gpu(make_trainer):
    """Build a trainer as `make_trainer` does, on the device that is tested."""

    def make(bits: int, dtype: str, *, lora: dict | None = None, **changes):
        return make_trainer(
            bits=bits,
            dtype=DTYPES[dtype],
            device=choose_device(DEVICE),
            rows=40,
            lora={"r": 8, "lora_alpha": 16} | (lora or {}),
            **(LONGER | changes),
        )

    return make


def losses(trainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def saved(trainer, folder: Path) -> bytes:
    folder.mkdir(parents=True)
    save_adapter(trainer.model, folder, base_model="tiny", weights={})
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_precision_trains_and_predicts_what_a_cpu_does(
    make_on_gpu, base_model_dir, prompts, tmp_path, bits, dtype
):
    trainer = make_on_gpu(bits, dtype)
    run_training(trainer)
    found = losses(trainer)
    assert len(found) == 30 and np.mean(found[-5:]) < 0.8 * np.mean(found[:5])
    saved(trainer, tmp_path / "adapter")
    asked = prompts["prompt"].head(16).tolist()
    here, exact = (
        Predictor(
            base_model_dir,
            tmp_path / "adapter",
            settings=ServingRecord(quantization=quantization(bits), dtype=kind, max_dropped_mass=0),
            device=device,
        ).distributions(asked)
        for device, kind in ((DEVICE, dtype), ("cpu", "float32"))
    )
    assert here.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-3)
    apart = np.abs(here.probabilities - exact.probabilities).sum(axis=1) / 2
    assert apart.mean() < {"float32": 0.02, "float16": 0.05, "bfloat16": 0.15}[dtype]


@pytest.mark.parametrize(
    "optim", ["adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"]
)
def test_optimizers_of_gpus_take_the_same_way(make_on_gpu, optim):
    ways = {}
    for name in ("adamw_torch_fused", optim):
        trainer = make_on_gpu(4, "bfloat16", folder=name, optim=name)
        run_training(trainer)
        ways[name] = losses(trainer)
    assert ways[optim] == pytest.approx(ways["adamw_torch_fused"], rel=0.1, abs=0.1)


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"init_lora_weights": "olora"}])
def test_other_adapters_train(make_on_gpu, lora):
    trainer = make_on_gpu(4, "bfloat16", lora=lora, activation_checkpointing=True)
    run_training(trainer)
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize(
    ("bits", "dtype", "optim"),
    [(4, "bfloat16", "adamw_torch_fused"), (4, "float16", "paged_adamw_32bit")],
)
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    make_on_gpu, tmp_path, bits, dtype, optim
):
    ends = []
    for name in ("whole", "resumed"):
        trainer = make_on_gpu(bits, dtype, folder=name, optim=optim, save_total_limit=9)
        checkpoint = tmp_path / "whole/checkpoints/checkpoint-15"
        run_training(trainer, checkpoint if ends else None)
        ends.append(saved(trainer, tmp_path / name / "adapter"))
    assert ends[0] == ends[1]


def test_memory_that_runs_out_is_told_from_other_errors():
    from pricer.prices.batches import is_out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**44, device=DEVICE)
    assert is_out_of_memory(caught.value)


def test_parts_of_a_model_in_4_bits_train(base_model_dir, prompts, tmp_path):
    """FSDP with 4-bit weights stored as bfloat16, in the one process that one GPU allows."""
    for split, table in (("train", prompts.head(40)), ("validation", prompts.tail(8))):
        write_parquet(tmp_path / f"prompts/{split}.parquet", table)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    set_params(
        tmp_path,
        {f"train.{name}": value for name, value in (TINY | LONGER).items()}
        | {"compute.processes": 2, "compute.strategy": "fsdp", "predict.calibration_size": 9},
    )
    compute = read_params(tmp_path / "params.yaml").compute
    one = Compute.model_construct(**(compute.model_dump() | {"processes": 1}))
    paths = ["prompts", base_model_dir, "fetched", "adapter", "train.json", "curves"]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += [*launch_arguments(one, threads=1), "train", *map(str, paths)]
    ends = []
    for how in ("starting afresh", "resuming from step 25"):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert f"training on cuda:0 in bfloat16, {how}" in done.stdout
        ends.append((tmp_path / "adapter/adapter_model.safetensors").read_bytes())
        shutil.rmtree(next(tmp_path.glob(".checkpoints/*/checkpoint-30")))
    assert ends[0] == ends[1]
    predictor = Predictor(
        base_model_dir, tmp_path / "adapter", settings=ServingRecord(), device=DEVICE
    )
    found = predictor.distributions(prompts["prompt"].head(4).tolist())
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-3)
