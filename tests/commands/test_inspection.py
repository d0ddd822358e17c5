import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from pricer.commands.inspection import (
    adapted_model,
    inspection_text,
    model_shape,
    module_table,
    price_tokens,
)
from pricer.errors import BaseModelError
from pricer.model.lora import lora_config
from pricer.model.sources import find_config
from pricer.params import HubModel, read_params
from tests.conftest import ROOT

PARAMS = read_params(ROOT / "params.yaml")
NOWHERE = Path("no/such/folder")


def hub(name: str):
    values = {"source": "hub", "hub": HubModel(id=name, revision="main")}
    return PARAMS.model.model_copy(update=values)


def from_path(folder: Path):
    return PARAMS.model.model_copy(update={"source": "path", "path": str(folder)})


@pytest.mark.parametrize(
    ("preset", "trainable", "megabytes"),
    [("lite", "18,350,080", "73.4"), ("full", "389,021,696", "1,556.1")],
)
def test_presets_have_the_published_sizes(commands, preset, trainable, megabytes):
    command = [str(commands / "pricer"), "inspect", "--preset", preset]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"trainable parameters: {trainable}\nadapter: {megabytes} MB\n" in done.stdout
    assert "the published architecture of meta-llama/Llama-3.2-3B" in done.stdout
    assert re.search(r"\ntogether +\d+\.\d\d\n", done.stdout)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
    ],
)
def test_known_models_have_the_published_number_of_parameters(name, parameters):
    shape = model_shape(adapted_model(find_config(hub(name), NOWHERE)[0], PARAMS.lora))
    assert shape.linear + shape.other == parameters


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": "attention"},
        {"target_modules": ["down_proj"], "use_dora": True},
        {"init_lora_weights": "olora", "r": 48},
        {"use_dora": True},
    ],
)
def test_the_table_adds_up_to_what_training_makes(base_model_dir, lora):
    lora = PARAMS.lora.model_copy(update=lora)
    config, source = find_config(from_path(base_model_dir), NOWHERE)
    assert source == str(base_model_dir / "config.json")
    inspected = adapted_model(config, lora)
    assert all(parameter.is_meta for parameter in inspected.parameters())
    real = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    base = real.num_parameters()
    real = get_peft_model(real, lora_config(real, lora))
    trainable = sum(p.numel() for p in real.parameters() if p.requires_grad)
    rows = module_table(inspected)
    assert sum(row.count * row.trainable for row in rows) == trainable
    assert {row.count for row in rows if row.name != "lm_head"} == {2}
    shape = model_shape(inspected)
    assert (shape.adapter, shape.linear + shape.other) == (trainable, base)


@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 2), ("float32", 4)])
@pytest.mark.parametrize("held", [True, False])
def test_weights_that_are_there_are_measured(base_model_dir, tmp_path, dtype, width, held):
    folder = tmp_path / "base_model"
    shutil.copytree(base_model_dir, folder)
    (folder / "origin.json").write_text(json.dumps({"base_model": f"folder {base_model_dir}"}))
    compute = PARAMS.compute.model_copy(update={"dtype": dtype, "dequantize": held})
    params = PARAMS.model_copy(update={"model": from_path(base_model_dir), "compute": compute})
    text = inspection_text(params, folder, measure=False)
    measured = int(re.search(r"measured: .*\(([\d,]+) bytes\)", text)[1].replace(",", ""))
    config, _ = find_config(params.model, folder)
    shape = model_shape(adapted_model(config, params.lora))
    linear = width * shape.linear if held else shape.linear // 2
    assert measured == linear + width * shape.other
    with pytest.raises(BaseModelError, match="has no such model: run `dvc repro fetch`"):
        inspection_text(params, tmp_path / "none", measure=True)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "nonsense"},
        {"model_type": ["llama"]},
        {"model_type": "llama", "hidden_size": "wide"},
        {"model_type": "llama", "rope_parameters": 7},
        {"model_type": "llama", "pad_token_id": 10**9},
    ],
)
def test_a_configuration_of_nothing_known_is_told(config):
    with pytest.raises(BaseModelError, match="not a configuration of a causal language model"):
        adapted_model(config, PARAMS.lora)


def test_it_says_how_prices_are_read_with_a_tokenizer(base_model_dir, tokenizer, tmp_path):
    digits = "prices $0 to $999: up to 3 tokens, read in 3 passes over 99 beginnings"
    params = PARAMS.model_copy(update={"model": from_path(base_model_dir)})
    assert digits in inspection_text(params, NOWHERE, measure=False)
    assert "no tokenizer on this machine, run `dvc repro fetch`" in price_tokens(tmp_path, 999)
    numbers = copy.deepcopy(tokenizer)
    numbers.add_tokens([str(number) for number in range(10, 1000)])
    numbers.save_pretrained(tmp_path)
    whole = "prices $0 to $999: 1 token each, all read in one pass"
    assert price_tokens(tmp_path, 999) == whole
    numbers.add_tokens(["$7"])
    numbers.save_pretrained(tmp_path)
    assert "none can be read, this base model's tokenizer merges" in price_tokens(tmp_path, 999)
