"""Several adapters on one base model: each gives what it gives alone."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from pricer.errors import BaseModelError, PricerError
from pricer.model.base import load_base_model
from pricer.prices.predictor import Asked, Predictor
from pricer.prices.record import QUANTIZATION, ServingRecord
from tests.quantization import quantization

EXACT = ServingRecord(
    quantization=QUANTIZATION.model_copy(update={"load_in_4bit": False}), dtype="float32"
)
KINDS = {
    "all": {"target_modules": "all-linear", "r": 4},
    "attention": {"target_modules": ["q_proj", "v_proj"], "r": 8},
    "dora": {"target_modules": "all-linear", "r": 2, "use_dora": True},
}


@pytest.fixture(scope="module")
def adapters(base_model_dir, tmp_path_factory) -> dict[str, Path]:
    model = load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=quantization(16),
    )
    folders = {}
    for seed, (name, settings) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        config = LoraConfig(task_type="CAUSAL_LM", **settings)
        tuned = get_peft_model(copy.deepcopy(model), config)
        for weight, parameter in tuned.named_parameters():
            if "lora_B" in weight:
                torch.nn.init.normal_(parameter, std=0.1)
        folders[name] = tmp_path_factory.mktemp(name)
        tuned.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("order", [("all", "attention", "dora"), ("attention", "dora", "all")])
def test_each_adapter_gives_what_it_gives_alone(base_model_dir, adapters, items, order):
    texts = items["summary"][:5].tolist()
    alone = {
        name: Predictor(base_model_dir, folder, settings=EXACT).predict(texts, distribution=True)
        for name, folder in adapters.items()
    }
    first = Predictor(base_model_dir, adapters[order[0]], settings=EXACT)
    together = {order[0]: first} | {
        name: first.beside(adapters[name], settings=EXACT) for name in order[1:]
    }
    with ThreadPoolExecutor(3) as pool:  # in turns, whoever comes
        runs = [
            (name, pool.submit(together[name].predict, texts, distribution=True))
            for name in order * 4
        ]
    for name, run in runs:
        for one, expected in zip(run.result(), alone[name], strict=True):
            np.testing.assert_allclose(one.probabilities, expected.probabilities, atol=1e-6)
    assert np.abs(alone["all"][0].probabilities - alone["dora"][0].probabilities).max() > 1e-3


def test_the_base_weights_are_held_once(base_model_dir, adapters):
    first = Predictor(base_model_dir, adapters["all"], settings=EXACT)
    before = {id(one) for one in first.model.parameters()}
    size = sum(one.numel() for one in first.model.parameters())
    other = first.beside(adapters["attention"], settings=EXACT)
    added = [one for one in other.model.parameters() if id(one) not in before]
    assert 0 < sum(one.numel() for one in added) < 0.2 * size
    assert {id(one) for one in first.model.parameters()} >= before


def test_an_adapter_for_another_kind_of_weights_is_refused(base_model_dir, adapters, tmp_path):
    first = Predictor(base_model_dir, adapters["all"], settings=EXACT)
    with pytest.raises(PricerError, match=r"loaded another way \(quantization\)"):
        first.beside(adapters["attention"], settings=ServingRecord(dtype="float32"))
    with pytest.raises(BaseModelError, match="no adapter there"):
        first.beside(tmp_path, settings=EXACT)
    with pytest.raises(PricerError, match="the predictor has none"):
        Predictor(base_model_dir, settings=EXACT).beside(adapters["all"], settings=EXACT)
    assert first.predict(["A kettle"])  # as before


def test_products_of_one_batch_may_ask_for_different_things(base_model_dir, adapters):
    predictor = Predictor(base_model_dir, adapters["all"], settings=EXACT)
    asked = [Asked("mean", 50), Asked("greedy", 90, distribution=True), Asked()]
    texts = ["A kettle", "A red chair", "A lamp"]
    together = predictor.answer(texts, asked)
    for text, one, found in zip(texts, asked, together, strict=True):
        [alone] = predictor.predict(
            [text], point=one.point, level=one.level, distribution=one.distribution
        )
        assert found.estimate_usd == pytest.approx(alone.estimate_usd, abs=1e-3)
        assert (found.low_usd, found.high_usd) == (alone.low_usd, alone.high_usd)
        assert (found.probabilities is None) == (alone.probabilities is None)
