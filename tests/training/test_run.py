import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors import safe_open
from transformers import TrainerCallback

from pricer.errors import ParamsError, PricerError
from pricer.model.adapters import save_adapter
from pricer.model.base import load_base_model
from pricer.params import Lora, Train, read_params
from pricer.prices.distribution import quantile
from pricer.prices.predictor import Predictor
from pricer.prices.record import QUANTIZATION, ServingRecord
from pricer.products.prompts import build_prompts
from pricer.training.checkpoints import find_start, space_for_checkpoints
from pricer.training.checks import check_calibration, check_optimizer, check_trackers
from pricer.training.examples import IGNORED, EpochOrder, build_examples, collate
from pricer.training.run import Run, build_trainer, fit, run_training
from pricer.training.trackers import CURVES, Logged, Trackers
from pricer.training.trainer import CompletionTrainer, dollar_scores
from tests.conftest import ROOT
from tests.quantization import quantization

DEFAULT = read_params(ROOT / "params.yaml")
TINY = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "validation_size": 8,
    "num_train_epochs": 1.0,
    "logging_steps": 1,
    "eval_steps": 3,
    "learning_rate": 5e-3,
    "save_strategy": "no",
}


@pytest.fixture(scope="module")
def prompts(tokenizer, items) -> pd.DataFrame:
    return build_prompts(tokenizer, items.head(40), cutoff=40, rounded=True)


def logged(folder: Path, run: Run) -> Logged:
    return Logged(
        folder / "curves",
        names=run.train.report_to,
        folder=folder / "trackers",
        run_name=run.train.run_name or run.checkpoints.name,
        tags=run.train.tags,
        params={"lora.r": 4, "train.tags": ["a", "b"]},
    )


@pytest.fixture
def make_trainer(base_model_dir, tokenizer, prompts, tmp_path):
    """Build a trainer on a fresh 4-bit tiny Llama; keywords change train and lora params."""

    def make(
        *,
        lora: dict | None = None,
        bits: int = 4,
        dtype=torch.bfloat16,
        device="cpu",
        rows=24,
        folder=".",
        **train,
    ):
        model = load_base_model(
            base_model_dir,
            device=torch.device(device),
            dtype=dtype,
            quantization=quantization(bits),
        )
        run = Run(
            Lora(**(DEFAULT.lora.model_dump() | {"r": 4, "lora_alpha": 8} | (lora or {}))),
            Train(**(DEFAULT.train.model_dump() | TINY | train)),
            dtype,
            tokenizer,
            train_prompts=prompts.head(rows),
            validation_prompts=prompts.tail(8),
            checkpoints=tmp_path / folder / "checkpoints",
        )
        return build_trainer(model, run, Trackers(logged(tmp_path / folder, run)))

    return make


def gradients(trainer, batch) -> dict[str, torch.Tensor]:
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def first_batch(trainer, n: int = 4):
    return collate([trainer.train_dataset[row] for row in range(n)], pad_token_id=0)


def test_the_prompt_is_never_a_label(tokenizer, prompts):
    for example, row in zip(build_examples(tokenizer, prompts), prompts.itertuples(), strict=True):
        counted = [label for label in example["labels"] if label != IGNORED]
        assert tokenizer.decode(counted) == row.completion + tokenizer.eos_token
        assert example["labels"][: row.prompt_tokens] == [IGNORED] * row.prompt_tokens
        assert len(example["input_ids"]) == row.prompt_tokens + row.completion_tokens


def test_the_loss_is_the_full_models_over_completion_tokens(make_trainer):
    trainer = make_trainer(bits=16, dtype=torch.float32)
    examples = [trainer.train_dataset[row] for row in range(6)]
    loss = trainer.compute_loss(trainer.model, collate(examples, pad_token_id=0))
    total = count = 0.0
    for example in examples:  # alone, unpadded, over every position
        logits = trainer.model(torch.tensor([example["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(example["labels"][1:])
        total += F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").item()
        count += int((labels != IGNORED).sum())
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_a_prompt_token_has_no_part_in_the_loss_of_another_row(make_trainer):
    trainer = make_trainer(bits=16, dtype=torch.float32)
    batch = first_batch(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    batch["input_ids"][batch["attention_mask"] == 0] = 5  # other padding
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(loss.item())


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_gradients_are_the_same_before_and_after_an_evaluation(make_trainer, bits):
    """What bitsandbytes' repacking for inference would break."""
    trainer = make_trainer(bits=bits, dtype=torch.float32)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # zero at the start, so that A would get no gradient
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    batch = first_batch(trainer)
    before = gradients(trainer, batch)
    trainer.evaluate()
    after = gradients(trainer, batch)
    assert before and all(torch.equal(before[name], after[name]) for name in before)
    assert all(gradient.abs().sum() > 0 for gradient in before.values())


def test_training_moves_the_adapter_alone_and_lowers_the_loss(make_trainer, tmp_path):
    trainer = make_trainer(
        num_train_epochs=8.0, learning_rate=3e-2, lora={"r": 16, "lora_alpha": 32}
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert all(not p.any() for name, p in before.items() if "lora_B" in name)
    metrics = run_training(trainer)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) != ("lora_" in name), name
        assert "lora_" not in name or parameter.dtype == torch.float32
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert metrics["steps"] == 48 and sum(losses[-6:]) < 0.7 * sum(losses[:6])
    curves = {file.stem: pd.read_csv(file, sep="\t") for file in tmp_path.rglob("*.tsv")}
    assert set(curves) == set(CURVES.values())
    assert curves["train_loss"]["step"].tolist() == list(range(1, 49))
    assert curves["validation_loss"]["step"].is_unique


def test_the_same_seed_gives_the_same_bytes(make_trainer, tmp_path):
    adapters = []
    for name in ("one", "two", "other seed"):
        trainer = make_trainer(seed=1 if name != "other seed" else 2)
        run_training(trainer)
        save_adapter(trainer.model, tmp_path / name, base_model="data/base_model")
        adapters.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
        config = (tmp_path / name / "adapter_config.json").read_text()
    assert adapters[0] == adapters[1] != adapters[2]
    every = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    targets = json.loads(config)["target_modules"]
    assert targets == sorted(targets)  # in one order, whatever the process
    assert sorted({name.rpartition(".")[2] for name in targets}) == every


def test_the_saved_adapter_is_standard_and_holds_no_base_weights(
    make_trainer, base_model_dir, tmp_path
):
    trainer = make_trainer(bits=16, dtype=torch.float32)
    run_training(trainer)
    save_adapter(trainer.model, tmp_path / "adapter", base_model="data/base_model")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as weights:
        assert all("lora_" in name for name in weights.keys())  # noqa: SIM118
    batch = first_batch(trainer)
    fresh = load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=quantization(16),
    )
    elsewhere = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = trainer.model.eval()(ids, attention_mask=mask).logits
        assert torch.allclose(elsewhere(ids, attention_mask=mask).logits, expected, atol=1e-5)


def test_accumulating_two_batches_is_one_of_twice_the_size(make_trainer):
    """The loss is normalised over the optimizer step, so the gradients are the same."""
    trainer = make_trainer(bits=16, dtype=torch.float32)
    whole = gradients(trainer, first_batch(trainer, 8))
    count = sum(
        label != IGNORED for row in range(8) for label in trainer.train_dataset[row]["labels"]
    )
    trainer.model.zero_grad()
    for rows in (range(4), range(4, 8)):
        half = collate([trainer.train_dataset[row] for row in rows], pad_token_id=0)
        trainer.compute_loss(trainer.model, half, num_items_in_batch=count).backward()
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, whole[name], atol=1e-6)


class Interruption(TrainerCallback):
    """Ctrl-C at the end of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def results(trainer, folder, checkpoint=None) -> dict[str, object]:
    """Everything that a training run leaves: metrics, adapter, curves."""
    metrics = run_training(trainer, checkpoint)
    save_adapter(trainer.model, folder, base_model="data/base_model")
    curves = sorted(folder.parent.glob("curves/**/*.tsv"))
    files = [folder / "adapter_model.safetensors", folder / "adapter_config.json", *curves]
    return metrics | {file.name: file.read_bytes() for file in files}


RESUMABLE = {
    "num_train_epochs": 2.0,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 5,  # a mean over steps before and after a checkpoint, were it not for care
    "save_total_limit": 2,
    "lora": {"lora_dropout": 0.1},
}


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize("step", [3, 6, 9])  # of 12: within the first epoch, at its end, after it
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    make_trainer, tmp_path, step, strategy
):
    params = RESUMABLE | {"train_sampling_strategy": strategy}
    whole = results(make_trainer(folder="whole", **params), tmp_path / "whole" / "adapter")
    interrupted = make_trainer(folder="parts", **params)
    interrupted.add_callback(Interruption(step))
    with pytest.raises(KeyboardInterrupt):
        run_training(interrupted)
    checkpoint, how = find_start(tmp_path / "parts" / "checkpoints")
    assert f"resuming from step {(step - 1) // 2 * 2} " in how
    shutil.rmtree(tmp_path / "parts" / "curves")  # as a stage that fails does
    resumed = make_trainer(folder="parts", **params)
    found = results(resumed, tmp_path / "parts" / "adapter", checkpoint)
    assert found == whole
    for name, parameter in resumed.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name


def test_steps_of_like_lengths_come_in_random_order():
    lengths = list(range(1, 131))
    rows = list(EpochOrder(lengths, group=4, seed=1))
    assert sorted(rows) == list(range(130))
    steps = [[lengths[row] for row in rows[start : start + 4]] for start in range(0, 130, 4)]
    assert max(steps[0]) == 130 and len(steps[-1]) == 2
    assert (
        sum(max(step) - min(step) for step in steps[1:-1]) < 31 * 16
    )  # a random order has 78 a step
    falls = sum(one[0] > two[0] for one, two in zip(steps[1:-2], steps[2:-1], strict=True))
    assert 8 < falls < 22  # of 30: neither sorted up nor down


def test_an_epochs_order_depends_on_seed_and_epoch_alone():
    order = EpochOrder([5, 3, 9, 1, 7, 2], group=2, seed=1)
    first = list(order)
    torch.manual_seed(99)
    assert list(order) == first and sorted(first) == list(range(6))
    order.epoch = 1
    assert list(order) != first
    other = EpochOrder([1] * 50, group=None, seed=1)
    assert list(other) != list(EpochOrder([1] * 50, group=None, seed=2))


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoilt(make_trainer):
    trainer = make_trainer(save_strategy="steps", save_steps=1, num_train_epochs=1.0)
    loss, seen = trainer.compute_loss, []

    def broken(model, inputs, *args, **kwargs):
        seen.append(inputs["id"].tolist())
        return loss(model, inputs, *args, **kwargs) * (float("nan") if len(seen) == 3 else 1)

    trainer.compute_loss = broken
    with pytest.raises(PricerError, match=r"the loss is nan at step 3 \(products ") as error:
        trainer.train()
    assert all(str(product) in str(error.value) for product in seen[2])
    assert "lower train.learning_rate" in str(error.value)
    checkpoint, _ = find_start(Path(trainer.args.output_dir))
    assert checkpoint.name == "checkpoint-2"


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_spoilt(make_trainer):
    trainer = make_trainer()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    weight = next(p for n, p in trainer.model.named_parameters() if "lora_B" in n)
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(PricerError, match=r"the gradient norm is (nan|inf) at step 1 "):
        trainer.train()
    assert all(
        torch.equal(p, before[n]) for n, p in trainer.model.named_parameters() if n in before
    )


def test_an_adapter_that_no_gradient_reaches_is_told_at_the_first_step(make_trainer):
    trainer = make_trainer()
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            parameter.register_hook(torch.zeros_like)
    with pytest.raises(PricerError, match="no gradient reaches any weight of the adapter"):
        trainer.train()


def test_products_without_a_completion_are_told(make_trainer):
    trainer = make_trainer()
    batch = first_batch(trainer)
    batch["labels"][:] = IGNORED
    with pytest.raises(PricerError, match="have no completion to learn from"):
        trainer.compute_loss(trainer.model, batch)


def test_eight_examples_are_memorised(make_trainer):
    trainer = make_trainer(
        bits=16,
        dtype=torch.float32,
        rows=8,
        per_device_train_batch_size=8,
        num_train_epochs=300.0,
        max_grad_norm=1.0,
        eval_steps=1000,
        logging_steps=20,
        lora={"r": 64, "lora_alpha": 128},
    )
    run_training(trainer)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0] > 2 and losses[-1] < 0.05


def test_a_learning_rate_of_zero_changes_nothing(make_trainer):
    trainer = make_trainer(bits=16, dtype=torch.float32, learning_rate=0.0)
    batch = first_batch(trainer)
    ids = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    with torch.no_grad(), trainer.model.disable_adapter():
        base = trainer.model.eval()(**ids).logits
    run_training(trainer)
    with torch.no_grad():
        assert torch.equal(trainer.model.eval()(**ids).logits, base)


def test_training_with_accumulation_takes_the_same_steps(make_trainer):
    """Batches of 8, and of 4 with two of them a step: the same examples, the same losses."""
    losses = []
    for batch, accumulation in ((8, 1), (4, 2)):
        trainer = make_trainer(
            bits=16,
            dtype=torch.float32,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=3.0,
        )
        run_training(trainer)
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert len(losses[0]) == 9 and losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_is_logged_in_dollars_is_what_the_predictor_says(
    make_trainer, base_model_dir, prompts, tmp_path
):
    trainer = make_trainer(bits=16, dtype=torch.float32, num_train_epochs=2.0)
    metrics = run_training(trainer)
    save_adapter(trainer.model, tmp_path / "adapter", base_model="data/base_model")
    products = prompts.tail(8)
    found = Predictor(
        base_model_dir,
        tmp_path / "adapter",
        settings=ServingRecord(
            dtype="float32",
            quantization=QUANTIZATION.model_copy(update={"load_in_4bit": False}),
            max_price=round(prompts.head(24)["price"].max()),
        ),
    ).distributions(products["prompt"].tolist())
    truth = products["price"].to_numpy(float)
    expected = dollar_scores(truth, found.probabilities)
    assert {name: metrics[f"validation_{name}"] for name in expected} == pytest.approx(expected)
    assert expected["mae"] == abs(truth - quantile(found.probabilities, 0.5)).mean() > 1
    logged = [log for log in trainer.state.log_history if "eval_mae" in log]
    assert [log["step"] for log in logged] == [3, 6, 9, 12]


def adapter_weights(trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


class WeightsAt(TrainerCallback):
    """Keep the adapter's weights of a step, before it is evaluated."""

    def __init__(self, trainer, step: int) -> None:
        self.trainer, self.step = trainer, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.weights = adapter_weights(self.trainer)


def scripted_scores(monkeypatch, *maes: float) -> None:
    """Give evaluations these mean absolute errors, one after the other."""
    script = iter(maes)
    monkeypatch.setattr(
        "pricer.training.trainer.dollar_scores",
        lambda truth, probabilities: {"mae": next(script), "crps": 1.0, "coverage_80": 0.8},
    )


def test_the_best_adapter_is_kept_where_params_say_so(make_trainer, monkeypatch):
    for select, step in (("best", 6), ("last", 12)):
        scripted_scores(monkeypatch, 50, 40, 45, 60)
        trainer = make_trainer(num_train_epochs=2.0, select=select)
        kept = WeightsAt(trainer, step)
        trainer.add_callback(kept)
        metrics = run_training(trainer)
        found = adapter_weights(trainer)
        assert all(torch.equal(found[name], kept.weights[name]) for name in found)
        assert metrics["selected_step"] == step and metrics["best_step"] == 6
        assert metrics["validation_mae"] == {"best": 40, "last": 60}[select]
        assert metrics["validation_mae_best"] == 40 and metrics["steps"] == 12


def test_a_resumed_run_still_has_the_best_adapter(make_trainer, monkeypatch, tmp_path):
    params = RESUMABLE | {"select": "best", "num_train_epochs": 2.0}
    scripted_scores(monkeypatch, 50, 40, 45, 60)
    whole = results(make_trainer(folder="whole", **params), tmp_path / "whole" / "adapter")
    scripted_scores(monkeypatch, 50, 40)
    interrupted = make_trainer(folder="parts", **params)
    interrupted.add_callback(Interruption(8))
    with pytest.raises(KeyboardInterrupt):
        run_training(interrupted)
    checkpoint, _ = find_start(tmp_path / "parts" / "checkpoints")
    assert checkpoint.name == "checkpoint-6"
    scripted_scores(monkeypatch, 45, 60)
    shutil.rmtree(tmp_path / "parts" / "curves")
    resumed = make_trainer(folder="parts", **params)
    assert results(resumed, tmp_path / "parts" / "adapter", checkpoint) == whole


def test_training_stops_when_nothing_gets_better(make_trainer):
    metrics = run_training(
        make_trainer(learning_rate=0.0, num_train_epochs=5.0, early_stopping_patience=2)
    )
    assert metrics["steps"] == 9 and metrics["best_step"] == 3  # evaluated every 3 steps


def test_a_run_that_stops_before_its_first_logged_step_has_its_curves(make_trainer, tmp_path):
    trainer = make_trainer(
        learning_rate=0.0, num_train_epochs=5.0, early_stopping_patience=1, logging_steps=20
    )
    metrics = run_training(trainer)
    [curve] = tmp_path.rglob("train_loss.tsv")
    assert pd.read_csv(curve, sep="\t")["step"].tolist()[-1] == metrics["steps"] < 20


@pytest.fixture
def fit_with_little_memory(base_model_dir, tokenizer, prompts, tmp_path, monkeypatch):
    """Fit where a batch of more than two examples does not fit."""
    loss = CompletionTrainer.compute_loss

    def limited(self, model, inputs, *args, **kwargs):
        if model.training and len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return loss(self, model, inputs, *args, **kwargs)

    def load():
        return load_base_model(
            base_model_dir,
            device=torch.device("cpu"),
            dtype=torch.float32,
            quantization=quantization(16),
        )

    def fit_in(folder: str, *, limit: bool = True, **train):
        monkeypatch.setattr(CompletionTrainer, "compute_loss", limited if limit else loss)
        run = Run(
            Lora(**(DEFAULT.lora.model_dump() | {"r": 4})),
            Train(**(DEFAULT.train.model_dump() | TINY | train)),
            torch.float32,
            tokenizer,
            train_prompts=prompts.head(24),
            validation_prompts=prompts.tail(8),
            checkpoints=tmp_path / folder / "checkpoints",
        )
        return fit(load, run, logged(tmp_path / folder, run))

    return fit_in


def test_half_the_batch_is_tried_when_memory_runs_out(fit_with_little_memory, capsys):
    small, metrics, _ = fit_with_little_memory(
        "small", per_device_train_batch_size=8, auto_batch=True
    )
    said = capsys.readouterr().out
    assert "train.per_device_train_batch_size 4, gradient_accumulation_steps 2 from here" in said
    assert "train.per_device_train_batch_size 2, gradient_accumulation_steps 4 from here" in said
    whole, expected, _ = fit_with_little_memory("whole", limit=False, per_device_train_batch_size=8)
    assert metrics["steps"] == expected["steps"] == 3
    assert metrics["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)


def test_without_memory_the_params_to_lower_are_told(fit_with_little_memory):
    with pytest.raises(PricerError, match="out of memory with train.per_device_train_batch_size 4"):
        fit_with_little_memory("told")


def test_what_cannot_be_had_here_is_told_before_any_work(make_trainer):
    check_optimizer("paged_adamw_32bit", device="cuda")
    check_optimizer("adamw_torch_fused", device="cpu")
    with pytest.raises(ParamsError, match="train.optim paged_adamw_32bit needs a GPU"):
        check_optimizer("paged_adamw_32bit", device="cpu")
    with pytest.raises(
        ParamsError, match="the base model has no c_attn layers .it has down_proj, "
    ):
        make_trainer(lora={"target_modules": ["q_proj", "c_attn"]})


def test_products_are_left_to_calibrate_on_where_the_adapter_is_selected():
    train = DEFAULT.train
    best = train.model_copy(update={"select": "best", "validation_size": 40})
    patient = train.model_copy(update={"early_stopping_patience": 1, "validation_size": 40})
    check_calibration(train, products=9)
    for selecting in (best, patient):
        check_calibration(selecting, products=49)
        with pytest.raises(ParamsError, match="validation_size must be at most 39, got 40: .* 48"):
            check_calibration(selecting, products=48)


def test_a_tracker_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr("pricer.training.checks.importlib.util.find_spec", lambda name: None)
    check_trackers([])
    with pytest.raises(
        ParamsError, match=r"report_to names mlflow, wandb, not installed: run .pip"
    ):
        check_trackers(["mlflow", "wandb"])


def test_left_padding_keeps_positions():
    batch = collate(
        [
            {"id": 3, "input_ids": [5, 6], "labels": [-100, 6]},
            {"id": 4, "input_ids": [7, 8, 9], "labels": [-100, 8, 9]},
        ],
        pad_token_id=0,
    )
    assert batch["id"].tolist() == [3, 4]
    assert batch["input_ids"].tolist() == [[0, 5, 6], [7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 0, 1], [0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, -100, 6], [-100, 8, 9]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("bits", "lora"),
    [
        (4, {}),
        (4, {"target_modules": "attention", "use_rslora": True}),
        (4, {"target_modules": "mlp", "init_lora_weights": "gaussian"}),
        (4, {"init_lora_weights": "olora"}),
        (4, {"use_dora": True, "lora_dropout": 0.1}),
        (4, {"use_dora": True, "use_rslora": True, "init_lora_weights": "olora"}),
        (8, {"init_lora_weights": "olora"}),
        (8, {"init_lora_weights": "gaussian"}),
        (16, {"use_dora": True}),
    ],
)
def test_every_kind_of_adapter_trains_and_loads_as_it_was(
    make_trainer, base_model_dir, tmp_path, bits, lora
):
    trainer = make_trainer(bits=bits, dtype=torch.float32, lora=lora)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    run_training(trainer)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) != ("lora_" in name), name
    save_adapter(trainer.model, tmp_path / "adapter", base_model="data/base_model")
    fresh = load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=quantization(bits),
    )
    elsewhere = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    batch = first_batch(trainer)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = trainer.model.eval()(ids, attention_mask=mask).logits
        with elsewhere.disable_adapter():
            base = elsewhere(ids, attention_mask=mask).logits
        assert torch.equal(elsewhere(ids, attention_mask=mask).logits, expected)
    assert not torch.equal(base, expected)


def test_a_resumed_run_of_an_adapter_that_changes_the_base_weights_is_the_same(
    make_trainer, tmp_path
):
    """OLoRA takes out of the base weights what it puts into the adapter: once, not twice."""
    params = RESUMABLE | {"lora": {"init_lora_weights": "olora", "use_dora": True}}
    whole = results(make_trainer(folder="whole", **params), tmp_path / "whole" / "adapter")
    interrupted = make_trainer(folder="parts", **params)
    interrupted.add_callback(Interruption(6))
    with pytest.raises(KeyboardInterrupt):
        run_training(interrupted)
    checkpoint, _ = find_start(tmp_path / "parts" / "checkpoints")
    shutil.rmtree(tmp_path / "parts" / "curves")
    resumed = make_trainer(folder="parts", **params)
    assert results(resumed, tmp_path / "parts" / "adapter", checkpoint) == whole


def test_a_checkpoint_takes_the_room_that_is_asked_for(make_trainer):
    trainer = make_trainer(
        save_strategy="steps", save_steps=100, num_train_epochs=0.1, lora={"r": 64}
    )
    run_training(trainer)
    run = Path(trainer.args.output_dir)
    files = ("adapter_model.safetensors", "optimizer.pt")
    size = sum((run / "checkpoint-1" / name).stat().st_size for name in files)
    parameters = trainer.model.get_nb_trainable_parameters()[0]
    assert space_for_checkpoints(run, parameters, limit=1) == pytest.approx(size, rel=0.05)
