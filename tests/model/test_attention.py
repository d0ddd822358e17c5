import pytest
import torch
from peft import LoraConfig, get_peft_model

from pricer.model.attention import GROUPED, KINDS, takes_rows_side_by_side
from pricer.model.fused import fuse
from pricer.training.examples import IGNORED, collate
from pricer.training.trainer import one_row
from tests.tiny_models import tiny_model

SMALL = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "sliding_window": None}


def make(kind: str, attention: str, **other):
    return tiny_model(kind, 64, attention=attention, **(SMALL | other))


def batch() -> dict[str, torch.Tensor]:
    begin = [5, 9, 11, 7]
    sequences = [begin + rest for rest in ([20, 21, 22, 23, 24], [30, 31, 32], [40, 41, 42, 43])]
    examples = [
        {"id": row, "input_ids": ids, "labels": [IGNORED] * len(ids)}
        for row, ids in enumerate(sequences)
    ]
    tokens = collate(examples, pad_token_id=0)
    return {key: tokens[key] for key in ("input_ids", "attention_mask", "position_ids")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_model_computes_what_it_does_in_its_own_way(kind):
    with torch.no_grad():
        own, ours = (make(kind, name)(**batch()).logits for name in ("eager", GROUPED))
    real = batch()["attention_mask"].bool()
    assert torch.allclose(own[real], ours[real], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fused_layers_give_the_same_logits_and_gradients(kind):
    found = []
    for fused in (False, True):
        model = make(kind, GROUPED)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, config)
        if fused:
            fuse(model)
            norms = [one for name, one in model.named_modules() if name.endswith("norm")]
            assert any("forward" in vars(one) for one in norms) == (kind != "gemma")
        logits = model(**batch(), use_cache=False).logits
        logits[:, -2:].square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        found.append([logits.detach()[:, -2:], *gradients])
    for library, ours in zip(*found, strict=True):
        assert torch.allclose(library, ours, rtol=1e-4, atol=1e-5)


def lengths(layer: torch.nn.Module) -> list[int]:
    """Of the sequences that a layer will have computed."""
    found: list[int] = []
    layer.register_forward_hook(lambda layer, x, y: found.append(y.shape[1]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [2, torch.tensor([3, 6, 8])])
def test_the_last_layer_computes_no_more_than_what_is_asked_for(keep, kind):
    found = []
    for fused in (False, True):
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(1)
        model = get_peft_model(make(kind, GROUPED), config)
        if fused:
            fuse(model)
            fuse(model)  # as for a further adapter
        read = lengths(model.get_base_model().model.layers[-1].mlp.down_proj)
        asked = model(**batch(), use_cache=False, logits_to_keep=keep).logits
        asked.square().mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            every = model(**batch(), use_cache=False).logits
        longest = batch()["input_ids"].shape[1]
        assert read == [asked.shape[1] if fused else longest, longest]
        found.append([asked, every, *gradients])
    for library, ours in zip(*found, strict=True):
        assert torch.allclose(library, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_side_by_side_give_the_logits_and_gradients_of_a_batch(kind):
    found = []
    for packed in (False, True):
        model = make(kind, GROUPED)
        assert takes_rows_side_by_side(model.config)
        tokens = one_row(batch(), 2, torch.float32) if packed else batch() | {"logits_to_keep": 2}
        logits = model(**tokens, use_cache=False).logits.view(3, 2, -1)
        logits[:, :, :9].square().sum().backward()
        found.append((logits, [p.grad for p in model.parameters() if p.grad is not None]))
        if packed:
            assert tokens["input_ids"].tolist()[0][:5] == [5, 9, 11, 7, 20]
            assert tokens["input_ids"].shape == (1, 4 + 3 * 5)
    (logits, gradients), (packed_logits, packed_gradients) = found
    assert torch.allclose(logits, packed_logits, atol=1e-5)
    for one, other in zip(gradients, packed_gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_layers_that_see_a_window_alone_take_no_rows_side_by_side():
    kinds = ["sliding_attention", "full_attention"]
    qwen2 = {"sliding_window": 4, "use_sliding_window": True}
    assert not takes_rows_side_by_side(make("qwen2", GROUPED, layer_types=kinds, **qwen2).config)
    assert not takes_rows_side_by_side(make("mistral", GROUPED, sliding_window=4).config)
    assert not takes_rows_side_by_side(make("llama", "eager").config)
