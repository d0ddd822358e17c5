"""Estimates against what is published, what is loaded, and what autograd keeps."""

import pytest
import torch

from pricer.commands.inspection import adapted_model, model_shape
from pricer.commands.memory import (
    Recipe,
    activation_bytes,
    constant_bytes,
    logit_bytes,
    optimizer_bytes,
    training_bytes,
    weight_bytes,
)
from pricer.model import fused
from pricer.model.base import load_base_model
from pricer.model.sources import find_config
from pricer.params import HubModel, read_params
from pricer.products.prompts import build_prompts
from pricer.training.examples import collate
from pricer.training.run import Run, build_trainer
from pricer.training.trackers import Logged, Trackers
from tests.conftest import ROOT
from tests.quantization import quantization

PARAMS = read_params(ROOT / "params.yaml")


def shape_of(config: dict, **lora):
    return model_shape(adapted_model(config, PARAMS.lora.model_copy(update=lora)))


def known(name: str) -> dict:
    hub = HubModel(id=name, revision="main")
    model = PARAMS.model.model_copy(update={"source": "hub", "hub": hub})
    return find_config(model, ROOT / "none")[0]


@pytest.mark.parametrize(
    ("bits", "width", "published_gb"), [(16, 4, 12.9), (8, 2, 3.6), (4, 2, 2.2)]
)
def test_weights_of_llama_3b_take_what_is_published(bits, width, published_gb):
    shape = shape_of(known("meta-llama/Llama-3.2-3B"))
    estimated = weight_bytes(shape, bits=bits, width=width) / 1e9
    assert estimated == pytest.approx(published_gb, rel=0.02)


def load(folder, bits: int, double_quant: bool = True, *, dequantize: bool = False):
    return load_base_model(
        folder,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        quantization=quantization(bits, double_quant=double_quant),
        dequantize=dequantize,
    )


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_weights_and_constants_are_those_of_a_loaded_model(base_model_dir, bits, double_quant):
    model = load(base_model_dir, bits, double_quant)
    shape = shape_of(model.config.to_dict())
    assert weight_bytes(shape, bits=bits, width=2) == model.get_memory_footprint(
        return_buffers=False
    )
    held = 0
    for weight in model.parameters():
        if state := getattr(weight, "quant_state", None):
            held += state.absmax.nbytes + state.code.nbytes
            if state.nested:
                held += state.state2.absmax.nbytes + state.state2.code.nbytes + state.offset.nbytes
        if getattr(weight, "SCB", None) is not None:
            held += weight.SCB.nbytes
    estimated = constant_bytes(shape, bits=bits, double_quant=double_quant)
    assert estimated == pytest.approx(held, rel=0.01) and (held > 0) == (bits < 16)


@pytest.mark.parametrize(
    ("attention", "lora"),
    [
        ("grouped", {}),
        ("sdpa", {}),
        ("sdpa", {"target_modules": "attention"}),
        ("grouped", {"target_modules": "attention"}),
        ("grouped", {"lora_dropout": 0.1}),
    ],
)
def test_activations_are_what_autograd_keeps(
    base_model_dir, tokenizer, items, tmp_path, monkeypatch, attention, lora
):
    """In training as it is, on a model of two layers; `sdpa` as on a GPU."""
    prompts = build_prompts(tokenizer, items.head(16), cutoff=60, rounded=True)
    model = load(base_model_dir, 4, dequantize=attention != "sdpa")
    if attention == "sdpa":
        model.set_attn_implementation(attention)
        monkeypatch.setattr(fused, "_norm", fused._norm_of_a_gpu)
        monkeypatch.setattr(fused, "_is_usual", lambda layer: True)  # it compares bits
        monkeypatch.setattr(fused, "_skip_unread", lambda model: None)
    shape = shape_of(model.config.to_dict(), **lora)
    run = Run(
        PARAMS.lora.model_copy(update=lora),
        PARAMS.train.model_copy(update={"save_strategy": "no"}),
        torch.bfloat16,
        tokenizer,
        train_prompts=prompts,
        validation_prompts=prompts.head(1),
        checkpoints=tmp_path / "checkpoints",
    )
    logged = Logged(tmp_path / "curves", [], tmp_path, "run", tags=[], params={})
    trainer = build_trainer(model, run, Trackers(logged))
    batch = collate([trainer.train_dataset[row] for row in range(8)], pad_token_id=0)
    batch["input_ids"][:, 0] = torch.arange(8)  # nothing is shared, which the estimate leaves out
    prepared = trainer.accelerator.prepare(trainer.model).train()
    weights = {weight.untyped_storage().data_ptr() for weight in prepared.parameters()}
    kept = {}

    def keep(saved):
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), saved)  # alive: no address comes twice
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        trainer.compute_loss(prepared, dict(batch))
    copies = 2 * shape.adapter  # the adapter in bfloat16, which the estimate tells apart
    estimated = copies + activation_bytes(
        shape,
        batch=8,
        length=batch["input_ids"].shape[1],
        width=2,
        dropout=bool(lora.get("lora_dropout")),
        checkpointing=False,
        fused=attention == "sdpa",
    )
    assert estimated == pytest.approx(sum(size for size, _ in kept.values()), rel=0.15)


def test_moments_take_what_the_optimizer_holds():
    weight = torch.nn.Parameter(torch.zeros(1000))
    weight.grad = torch.ones(1000)
    optimizer = torch.optim.AdamW([weight])
    optimizer.step()
    moments = [value for value in optimizer.state[weight].values() if value.ndim]
    assert optimizer_bytes(1000, "adamw_torch") == sum(value.nbytes for value in moments)
    assert optimizer_bytes(1000, "paged_adamw_32bit") == optimizer_bytes(1000, "adamw_torch")
    assert optimizer_bytes(10**6, "paged_adamw_8bit") == pytest.approx(2.03e6, rel=0.01)


def test_what_saves_memory_saves_it_where_it_is_said_to():
    shape = shape_of(known("meta-llama/Llama-3.2-3B"), target_modules="attention", r=32)
    given = {
        "bits": 4,
        "double_quant": True,
        "dtype": "bfloat16",
        "optim": "paged_adamw_32bit",
        "batch": 32,
        "length": 128,
        "dropout": True,
        "checkpointing": False,
        "fused": True,
    }
    parts = training_bytes(shape, Recipe(**given))
    assert parts["adapter, float32"] == 73_400_320
    for change, part in (
        ({"checkpointing": True}, "activations"),
        ({"batch": 16}, "activations"),
        ({"batch": 16}, "logits"),
        ({"double_quant": False}, "quantization constants"),
        ({"bits": 8}, "base weights"),
    ):
        other = training_bytes(shape, Recipe(**(given | change)))
        less = part in ("activations", "logits")
        assert (other[part] < parts[part]) == less and other[part] != parts[part], change
    assert logit_bytes(shape, batch=32, completion=7, width=2) == 32 * 8 * 128_256 * 10
