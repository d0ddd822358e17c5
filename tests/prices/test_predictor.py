import copy
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from pricer.errors import BaseModelError, ItemsError, PricerError
from pricer.evidence.folds import make_evidence
from pricer.evidence.models import write_models
from pricer.evidence.wording import wording
from pricer.model.adapters import load_adapter
from pricer.model.base import load_base_model
from pricer.params import read_params
from pricer.prices.batches import Reading, predict_distributions
from pricer.prices.distribution import calibrated, interval, median, quantile, recentered
from pricer.prices.predictor import Predictor
from pricer.prices.reading import read_prices
from pricer.prices.record import QUANTIZATION, Calibration, ServingRecord, ToldEvidence
from pricer.prices.trie import build_price_trie
from pricer.products.prompts import build_prompt, build_prompts
from tests.conftest import ROOT
from tests.quantization import quantization

EXACT = ServingRecord(
    quantization=QUANTIZATION.model_copy(update={"load_in_4bit": False}), dtype="float32"
)


@pytest.fixture(scope="module")
def model(base_model_dir):
    return load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=quantization(16),
    )


def distributions(model, tokenizer, prompts, batch_size=8, max_new_tokens=4):
    return predict_distributions(
        model,
        tokenizer,
        build_price_trie(tokenizer, 999),
        prompts,
        Reading(0.01, batch_size, max_new_tokens),
    )


def predict(model, tokenizer, prompts):
    return distributions(model, tokenizer, prompts).greedy_texts


def mixed_prompts(items) -> list[str]:
    return [build_prompt(text[: 20 + 9 * i]) for i, text in enumerate(items["summary"][:20])]


def test_batches_of_mixed_lengths_equal_one_by_one_in_order(model, tokenizer, items):
    prompts = mixed_prompts(items)
    together = distributions(model, tokenizer, prompts)
    for other, order in (
        (distributions(model, tokenizer, prompts, batch_size=1), slice(None)),
        (distributions(model, tokenizer, prompts[::-1]), slice(None, None, -1)),
    ):
        assert other.greedy_texts[order] == together.greedy_texts
        np.testing.assert_allclose(other.probabilities[order], together.probabilities, atol=1e-6)
        np.testing.assert_allclose(other.price_mass[order], together.price_mass, atol=1e-6)
    np.testing.assert_allclose(together.probabilities.sum(axis=1), 1)
    assert (together.dropped_mass <= 0.01).all() and together.probabilities.shape == (20, 1000)


def test_without_greedy_text_the_distributions_are_the_same(model, tokenizer, items):
    prompts = mixed_prompts(items)
    alone = distributions(model, tokenizer, prompts, max_new_tokens=0)
    both = distributions(model, tokenizer, prompts)
    assert alone.greedy_texts == []
    np.testing.assert_array_equal(alone.probabilities, both.probabilities)


def test_half_the_batch_is_tried_when_memory_runs_out_and_said_once(
    base_model_dir, items, monkeypatch, capsys
):
    prompts = mixed_prompts(items)
    predictor = Predictor(base_model_dir, settings=EXACT.model_copy(update={"batch_size": 16}))
    expected = predictor.distributions(prompts)
    capsys.readouterr()

    def little_memory(model, trie, input_ids, *args, **kwargs):
        if len(input_ids) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return read_prices(model, trie, input_ids, *args, **kwargs)

    monkeypatch.setattr("pricer.prices.batches.read_prices", little_memory)
    for _ in range(2):
        found = predictor.distributions(prompts)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    said = capsys.readouterr()
    assert "out of memory: predict.batch_size 4 from here on" in said.err and not said.out
    assert said.err.count("out of memory") == 2  # 16 to 8, 8 to 4, and no more


def test_the_adapter_gives_what_merged_weights_give(model, base_model_dir, tokenizer, items):
    """In float32; dropout is off when a model predicts."""
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(copy.deepcopy(model), config).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    prompts = mixed_prompts(items)[:6]
    apart = distributions(tuned, tokenizer, prompts)
    merged = distributions(tuned.merge_and_unload(), tokenizer, prompts)
    np.testing.assert_allclose(apart.probabilities, merged.probabilities, atol=1e-5)
    base = distributions(model, tokenizer, prompts)
    assert np.abs(base.probabilities - merged.probabilities).max() > 1e-3


def test_it_is_greedy_whatever_the_base_models_settings_say(model, tokenizer, items, monkeypatch):
    prompts = [build_prompt(text) for text in items["summary"][:4]]
    sampling = GenerationConfig(do_sample=True, temperature=5.0, max_new_tokens=99)
    expected = predict(model, tokenizer, prompts)
    monkeypatch.setattr(model, "generation_config", sampling)
    assert predict(model, tokenizer, prompts) == predict(model, tokenizer, prompts) == expected
    ids = torch.tensor([tokenizer(prompts[0])["input_ids"]])
    for _ in range(4):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert tokenizer.decode(ids[0, -4:], skip_special_tokens=True) == expected[0]


def test_mode_of_a_sure_model_is_what_it_says(model, tokenizer, items):
    """A model that can only go on with 2, 1, 9 has all its mass there."""
    wanted = tokenizer("219", add_special_tokens=False)["input_ids"]
    prompt = build_prompt(items["summary"][0])
    start = len(tokenizer(prompt)["input_ids"])
    sure = copy.deepcopy(model)

    def say_219(layer, inputs, kwargs, output):
        positions = kwargs["position_ids"][:, -output.logits.shape[1] :] - start + 1
        for place, token in enumerate(wanted):
            output.logits[positions == place] = -50.0
            output.logits[..., token][positions == place] = 50.0
        return output

    sure.register_forward_hook(say_219, with_kwargs=True)
    found = distributions(sure, tokenizer, [prompt], max_new_tokens=0)
    assert found.probabilities[0].argmax() == 219
    assert found.price_mass[0] == pytest.approx(1) and found.dropped_mass[0] < 1e-6


def test_no_prompts_no_predictions(model, tokenizer):
    assert distributions(model, tokenizer, []).probabilities.shape == (0, 1000)


def test_an_adapter_that_is_not_there_or_does_not_fit_ends_in_one_line(model, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(BaseModelError, match="adapter_model.safetensors: not readable") as error:
        load_adapter(copy.deepcopy(model), tmp_path, torch.float32)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def adapter_dir(model, tmp_path_factory) -> Path:
    """An adapter that changes what the model says."""
    torch.manual_seed(6)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(copy.deepcopy(model), config)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return folder


def test_two_folders_make_a_predictor_and_its_intervals_are_marked_raw(
    model, base_model_dir, adapter_dir, tokenizer, items
):
    summaries = items["summary"][:6].tolist()
    predictor = Predictor(
        base_model_dir,
        adapter_dir,
        settings=EXACT.model_copy(update={"max_dropped_mass": 0.01}),
    )
    estimates = predictor.predict(summaries, distribution=True)
    tuned = load_adapter(copy.deepcopy(model), adapter_dir, torch.float32)
    prompts = [build_prompt(summary) for summary in summaries]
    expected = distributions(tuned, tokenizer, prompts, max_new_tokens=0).probabilities
    np.testing.assert_allclose([e.probabilities for e in estimates], expected, atol=1e-6)
    assert [e.estimate_usd for e in estimates] == quantile(expected, 0.5).tolist()
    base = Predictor(str(base_model_dir), settings=EXACT).predict(summaries, distribution=True)
    assert np.abs(base[0].probabilities - expected[0]).max() > 1e-3
    for level in (1, 80, 99):
        raw = predictor.predict(summaries, level=level)
        assert not any(estimate.calibrated for estimate in raw)
        ends = np.transpose([(estimate.low_usd, estimate.high_usd) for estimate in raw])
        np.testing.assert_allclose(ends, interval(expected, level / 100))


def test_with_offsets_intervals_are_calibrated(base_model_dir, items):
    summaries = items["summary"][:3].tolist()
    calibration = Calibration(method="made up", n=9, offsets={"80": 0.3, "50": 0.1})
    predictor = Predictor(
        base_model_dir, settings=EXACT.model_copy(update={"calibration": calibration})
    )
    found = predictor.predict(summaries, distribution=True)
    assert all(estimate.calibrated for estimate in found)
    rows = np.array([estimate.probabilities for estimate in found])
    low, high = calibrated(*interval(rows, 0.8), 0.3)
    np.testing.assert_allclose([estimate.low_usd for estimate in found], low, atol=0.005)
    np.testing.assert_allclose([estimate.high_usd for estimate in found], high, atol=0.005)
    with pytest.raises(PricerError, match="an interval of 90% cannot be had"):
        predictor.predict(summaries, level=90)


def test_medians_are_where_the_calibration_puts_them(base_model_dir, items):
    summaries = items["summary"][:3].tolist()
    raw = np.array(
        [
            one.probabilities
            for one in Predictor(base_model_dir, settings=EXACT).predict(
                summaries, distribution=True
            )
        ]
    )
    calibration = Calibration(method="made up", n=9, offsets={"80": 0.3}, intercept=0.4, slope=0.7)
    settings = EXACT.model_copy(update={"calibration": calibration})
    found = Predictor(base_model_dir, settings=settings).predict(summaries, distribution=True)
    moved = recentered(raw, 0.4, 0.7)
    np.testing.assert_allclose([one.probabilities for one in found], moved, atol=1e-9)
    assert [one.estimate_usd for one in found] == median(moved).tolist()
    assert not np.allclose(raw, moved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("max_dropped_mass", [0, 0.2])
@pytest.mark.parametrize("copies", [1, 20])  # all of the trie in one pass, and level by level
def test_what_the_model_has_no_numbers_for_gets_no_price(
    base_model_dir, tokenizer, value, max_dropped_mass, copies
):
    settings = EXACT.model_copy(update={"max_dropped_mass": max_dropped_mass})
    predictor = Predictor(base_model_dir, settings=settings)
    products = ["steel kettle", "steel kettle §"] * copies
    [*_, marker] = tokenizer("§", add_special_tokens=False)["input_ids"]

    def damaged(layer, inputs, output):
        return output.masked_fill((inputs[0] == marker)[..., None], value)

    predictor.model.get_input_embeddings().register_forward_hook(damaged)
    for point in ("median", "greedy"):
        with pytest.raises(PricerError, match="product 2: the model gives no price a prob") as told:
            predictor.predict(products, point=point)
        assert "\n" not in str(told.value)
        fine, none = predictor.predict_each(products, point=point)[:2]
        [alone] = predictor.predict(["steel kettle"], point=point)
        assert fine.estimate_usd == alone.estimate_usd and "NaN or infinity" in none
    prompts = [build_prompt(product) for product in products]
    with pytest.raises(PricerError, match="product second: the model"):
        predictor.distributions(prompts).check_usable(["first", "second"] * copies)


def test_one_without_a_description_is_no_reason_to_price_no_other(base_model_dir):
    predictor = Predictor(base_model_dir, settings=EXACT)
    products = [{"title": "lamp"}, "kettle", "\x01 ", {"summary": None}]
    no, kettle, empty, none = predictor.predict_each(products)
    assert no == empty == none == "no description"
    assert [kettle] == predictor.predict(["kettle"])
    with pytest.raises(ItemsError, match="product 3: no description"):
        predictor.predict(["kettle", "kettle", " "])
    assert predictor.predict_each(["", " "]) == ["no description"] * 2


@pytest.mark.parametrize(
    ("products", "says"),
    [
        ("kettle", "takes a list of products, got one"),
        ({"summary": "kettle"}, "takes a list of products, got one"),
        (["kettle", None], "a product is a text or has a `summary`, got None (NoneType)"),
        ([5], "a product is a text or has a `summary`, got 5 (int)"),
    ],
)
def test_what_is_no_list_of_products_is_told(base_model_dir, products, says):
    with pytest.raises(ItemsError, match=re.escape(says)):
        Predictor(base_model_dir, settings=EXACT).predict(products)


def test_what_cannot_be_asked_of_a_predictor_is_told(base_model_dir, tmp_path):
    with pytest.raises(BaseModelError, match="no adapter there"):
        Predictor(base_model_dir, tmp_path, settings=EXACT)
    predictor = Predictor(base_model_dir, settings=EXACT)
    with pytest.raises(PricerError, match="a whole percent from 1 to 99, got 100"):
        predictor.predict(["kettle"], level=100)
    with pytest.raises(PricerError, match="median, mean, mode or greedy, got 'best'"):
        predictor.predict(["kettle"], point="best")


def test_a_records_defaults_are_the_committed_params():
    params = read_params(ROOT / "params.yaml")
    wanted = params.predict.model_dump(exclude={"calibration_size"})
    wanted |= {"quantization": params.quantization.model_dump(), "cutoff": params.prompts.cutoff}
    # without a card or a record nobody knows of evidence
    wanted |= {"dtype": params.compute.dtype, "calibration": None, "evidence": None}
    wanted |= {"base_model_sha256": None, "adapter_sha256": None}
    assert ServingRecord().model_dump() == wanted


def test_threads_get_what_one_after_the_other_gives(base_model_dir, adapter_dir, items):
    """Calls that differ in products, batches, point and interval, all at once, more than once."""
    predictor = Predictor(
        base_model_dir, adapter_dir, settings=EXACT.model_copy(update={"batch_size": 4})
    )
    points = ("median", "greedy", "mean", "mode")

    def call(n: int):
        some = items["summary"][3 * n : 3 * n + 1 + n % 6].tolist()
        return predictor.predict(some, point=points[n % 4], level=50 + n)

    serial = [call(n) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(call, [*range(8)] * 2)) == serial * 2


def test_no_more_is_dropped_than_asked_where_much_of_the_mass_is_no_price(model, tokenizer, items):
    """A number that goes on past the highest price counts at its first token, not in the end."""
    prompts = [build_prompt(text) for text in items["summary"][:8]]
    drifting = copy.deepcopy(model)
    drifting.register_forward_hook(lambda layer, inputs, output: _favour(output, tokenizer))
    found = distributions(drifting, tokenizer, prompts, max_new_tokens=0)
    assert (found.price_mass < 0.5).all() and (found.dropped_mass > 0).any()
    assert (found.dropped_mass <= 0.01).all()


def _favour(output, tokenizer):
    """Make a letter likely after a digit, a digit after the prompt."""
    [letter] = tokenizer("k", add_special_tokens=False)["input_ids"]
    digits = [tokenizer(str(n), add_special_tokens=False)["input_ids"][0] for n in range(10)]
    if output.logits.shape[1] > 1 or output.past_key_values.get_seq_length() == 0:
        output.logits[..., letter] += 20
    else:
        output.logits[..., digits] += 20
    return output


def test_a_configuration_that_cannot_be_computed_with_is_told(base_model_dir, tmp_path):
    """Some of its values are used only in a forward pass."""
    shutil.copytree(base_model_dir, tmp_path / "base")
    file = tmp_path / "base/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": "small"}))
    with pytest.raises(BaseModelError, match="base: (the model cannot compute|cannot load) "):
        Predictor(tmp_path / "base", settings=EXACT, device="cpu")


@pytest.fixture(scope="module")
def evidence(items, tmp_path_factory):
    """Training and test items, what the stage says of the latter, and the folder of its models."""
    splits = {"train": items.iloc[:150].reset_index(drop=True), "test": items.iloc[150:]}
    tables, models = make_evidence(splits, read_params(ROOT / "params.yaml").evidence)
    folder = tmp_path_factory.mktemp("evidence") / "models"
    write_models(folder, models)
    return splits, tables["test"], folder


def told(neighbors, words, **changes):
    evidence = ToldEvidence(neighbors=neighbors, words=words)
    return EXACT.model_copy(update={"evidence": evidence} | changes)


def prompts_of(predictor, monkeypatch) -> list[str]:
    """Where the prompts that a predictor asks its model with will be."""
    asked, distributions = [], predictor.distributions
    monkeypatch.setattr(
        predictor,
        "distributions",
        lambda prompts, **asking: asked.extend(prompts) or distributions(prompts, **asking),
    )
    return asked


@pytest.mark.parametrize(("neighbors", "words"), [(3, True), (1, False), (0, True), (5, True)])
def test_a_products_prompt_is_the_one_that_the_pipeline_makes(
    base_model_dir, tokenizer, evidence, monkeypatch, neighbors, words
):
    splits, table, folder = evidence
    test = splits["test"].head(12)
    settings = told(neighbors, words, cutoff=40)
    predictor = Predictor(base_model_dir, evidence=str(folder), settings=settings)
    asked = prompts_of(predictor, monkeypatch)
    found = predictor.predict(test.to_dict(orient="records"))
    lines = wording(table.head(12), neighbors=neighbors, words=words)
    wanted = build_prompts(tokenizer, test, lines, cutoff=40, rounded=True)
    assert asked == wanted["prompt"].tolist() and any(wanted["truncated"])
    prices = dict(zip(splits["train"]["title"], splits["train"]["price"], strict=True))
    for estimate, row in zip(found, table.head(12).itertuples(), strict=True):
        assert len(estimate.neighbors) == max(neighbors, 3)
        assert [one.price_usd for one in estimate.neighbors] == list(
            row.neighbor_prices[: max(neighbors, 3)]
        )
        assert {one.title for one in estimate.neighbors} <= set(prices)
        assert estimate.words_estimate_usd == pytest.approx(row.words_estimate_usd, abs=0.005)


def test_a_training_product_is_likened_to_itself(base_model_dir, evidence):
    splits, _, folder = evidence
    first = splits["train"].iloc[0]
    predictor = Predictor(base_model_dir, evidence=folder, settings=told(3, True))
    [estimate] = predictor.predict([first["summary"]])
    nearest = estimate.neighbors[0]
    assert (nearest.title, nearest.price_usd) == (first["title"], first["price"])
    assert nearest.similarity == pytest.approx(1, abs=1e-3)


def test_a_product_without_a_known_word_has_no_neighbours_and_a_price(
    base_model_dir, evidence, monkeypatch
):
    predictor = Predictor(base_model_dir, evidence=evidence[2], settings=told(3, False))
    asked = prompts_of(predictor, monkeypatch)
    [estimate] = predictor.predict(["of the"])
    assert estimate.neighbors == () and asked == [build_prompt("of the")]
    assert np.isfinite(estimate.words_estimate_usd) and np.isfinite(estimate.estimate_usd)


def test_without_evidence_in_the_settings_none_is_told(base_model_dir, evidence, monkeypatch):
    predictor = Predictor(base_model_dir, evidence=evidence[2], settings=EXACT)
    asked = prompts_of(predictor, monkeypatch)
    [estimate] = predictor.predict(["kettle"])
    assert estimate.neighbors is None and estimate.words_estimate_usd is None
    assert asked == [build_prompt("kettle")]
