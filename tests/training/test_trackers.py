import os
import time
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from pricer.training.trackers import Logged, Trackers

PARAMS = {"lora.r": 16, "lora.target_modules": ["q_proj", "v_proj"], "train.learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No key, no settings of this machine."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")  # so that it is as before when the test ends
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))


def run(names: list[str], folder: Path) -> None:
    """What the trainer does: a run that resumes after step 5 and logs one more."""
    trackers = Trackers(
        Logged(folder / "curves", names, folder, "kettles", tags=["demo", "r16"], params=PARAMS)
    )
    state = TrainerState(
        log_history=[{"loss": 2.0, "step": 5, "epoch": 0.5}, {"eval_mae": 50.0, "step": 5}]
    )
    args, control = TrainingArguments(output_dir=str(folder), use_cpu=True), TrainerControl()
    trackers.on_train_begin(args, state, control)
    state.global_step = 10
    trackers.on_log(args, state, control, logs={"loss": 1.5, "epoch": 1.0})
    trackers.close()


def test_tensorboard_has_curves_params_and_tags(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(["tensorboard"], tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "kettles")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(5, 2.0), (10, 1.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation_mae")] == [(5, 50.0)]
    assert events.Tensors("tags/text_summary")[0].tensor_proto.string_val == [b"demo, r16"]
    [written] = (tmp_path / "tensorboard" / "kettles").glob("*/hparams.yml")
    assert "lora.r: 16" in written.read_text()


def test_mlflow_has_curves_params_and_tags(tmp_path):
    import mlflow

    run(["mlflow"], tmp_path)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    [experiment] = [e for e in client.search_experiments() if e.name == "pricer"]
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "kettles" and found.info.status == "FINISHED"
    assert found.data.params == {
        "lora.r": "16",
        "lora.target_modules": "q_proj, v_proj",
        "train.learning_rate": "0.001",
    }
    assert {"demo", "r16"} <= set(found.data.tags)
    history = client.get_metric_history(found.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(5, 2.0), (10, 1.5)]


def test_weights_and_biases_runs_offline_without_a_key(tmp_path):
    run(["wandb"], tmp_path)
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60  # wandb's own process may write after `finish` has returned
    while b"validation_mae" not in (written := file.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for said in (b"kettles", b"demo", b"lora.r", b"train_loss", b"validation_mae"):
        assert said in written, said


def test_all_at_once(tmp_path, capsys):
    run(["wandb", "tensorboard", "mlflow"], tmp_path)
    assert {"mlflow", "tensorboard", "wandb"} <= set(os.listdir(tmp_path))
    assert "training goes on without" not in capsys.readouterr().err


def test_dvclive_has_the_curves_from_the_first_step_on(tmp_path):
    run([], tmp_path)
    written = {file.stem: file.read_text().splitlines() for file in tmp_path.rglob("*.tsv")}
    assert written == {
        "train_loss": ["step\ttrain_loss", "5\t2.0", "10\t1.5"],
        "validation_mae": ["step\tvalidation_mae", "5\t50.0"],
    }


def test_without_its_curves_a_run_ends(tmp_path, monkeypatch):
    from pricer.training import trackers

    def fail(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers.Live, "log_metric", fail)
    with pytest.raises(OSError, match="No space left"):
        run([], tmp_path)


def test_a_tracker_that_fails_is_told_and_left(tmp_path, monkeypatch, capsys):
    from pricer.training import trackers

    def fail(self, *args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(trackers.MLflowTracker, "start", fail)
    monkeypatch.setattr(trackers.TensorBoardTracker, "log", fail)
    run(["mlflow", "tensorboard"], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "training goes on without mlflow: no route to host",
        "training goes on without tensorboard: no route to host",
    ]
