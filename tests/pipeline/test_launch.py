"""Two processes do what one does: they train in step, and share what there is to predict."""

import pandas as pd
import pytest

from tests.pipeline.test_resume import forget, kill, wait_for_checkpoint

# in full precision sums of another order agree to many digits
EXACT = {"compute__dtype": "float32", "quantization__load_in_4bit": False}


@pytest.fixture
def small_steps(reproduced):
    """The reproduced project with a gentle learning rate, put back afterwards."""
    reproduced.set(**EXACT, train__learning_rate=0.005, train__per_device_eval_batch_size=4)
    yield reproduced
    reproduced.run("git", "checkout", "params.yaml", "metrics")
    reproduced.run("dvc", "checkout", "--force")


def curve(project, name: str) -> list[float]:
    file = project.folder / f"metrics/train/plots/metrics/{name}.tsv"
    return pd.read_csv(file, sep="\t")[name].tolist()


def test_two_processes_train_and_predict_like_one(small_steps):
    train, predict = small_steps.command_of("train"), small_steps.command_of("predict")
    forget(small_steps)
    small_steps.run(*train)
    names = ("train_loss", "validation_loss", "validation_mae")
    alone = {name: curve(small_steps, name) for name in names}
    small_steps.run(*predict)
    predicted = small_steps.hashes("data/predictions")

    small_steps.set(compute__processes=2)
    small_steps.run(*predict)  # the adapter of one process, by two
    assert small_steps.hashes("data/predictions") == predicted

    small_steps.set(train__per_device_train_batch_size=2)  # the same examples a step
    process = small_steps.start(*train)
    wait_for_checkpoint(small_steps, process, 12)
    kill(process)
    done = small_steps.run(*train)
    assert "resuming from step" in done.stdout and done.stdout.count("training on cpu") == 1
    assert len(alone["train_loss"]) == 24
    for name in names:
        assert curve(small_steps, name) == pytest.approx(alone[name], rel=1e-3), name


def test_what_a_process_says_when_it_fails_is_all_that_is_said(small_steps):
    small_steps.set(compute__processes=2, lora__target_modules=["c_attn"])
    done = small_steps.run(*small_steps.command_of("train"), ok=False)
    assert "lora.target_modules: the base model has no c_attn" in done.stderr
    assert "train: failed in the processes " in done.stderr
    assert "Traceback" not in done.stderr and "elastic" not in done.stderr


def test_one_process_for_each_gpu_that_there_is(small_steps):
    small_steps.set(compute__processes=2, compute__strategy="fsdp")
    done = small_steps.run(*small_steps.command_of("train"), ok=False)
    assert "train: compute.strategy fsdp needs GPUs: set it to ddp" in done.stderr


def test_hash_seed_locale_and_time_zone_change_nothing(reproduced):
    expected = reproduced.hashes("data/adapter", "metrics/train")
    forget(reproduced)
    other = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "LANG": "tr_TR", "TZ": "Asia/Tokyo"}
    process = reproduced.start(*reproduced.command_of("train"), **other)
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert reproduced.hashes("data/adapter", "metrics/train") == expected
