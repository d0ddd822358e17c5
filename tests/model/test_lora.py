import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from pricer.errors import ParamsError
from pricer.model.lora import lora_config, target_modules
from pricer.params import read_params
from tests.conftest import ROOT

LORA = read_params(ROOT / "params.yaml").lora
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "num_attention_heads": 2}


def build(kind: str, **values):
    """An architecture without weights."""
    values = SMALL | {"pad_token_id": 0} | values
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))


ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("kind", "attention", "mlp"),
    [
        ("llama", ATTENTION, ["down_proj", "gate_proj", "up_proj"]),
        ("qwen2", ATTENTION, ["down_proj", "gate_proj", "up_proj"]),
        ("phi3", ["o_proj", "qkv_proj"], ["down_proj", "gate_up_proj"]),
        ("gpt_neox", ["dense", "query_key_value"], ["dense_4h_to_h", "dense_h_to_4h"]),
        ("mpt", ["Wqkv", "out_proj"], ["down_proj", "up_proj"]),
    ],
)
def test_groups_are_the_layers_that_their_parents_names_say(kind, attention, mlp):
    model = build(kind)
    assert target_modules(model, "attention") == attention
    assert target_modules(model, "mlp") == mlp


def test_a_name_that_both_groups_have_is_told_apart_by_its_parent():
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.down_proj = torch.nn.Linear(4, 4, device="meta")
    assert target_modules(model, "mlp") == ["gate_proj", "mlp.down_proj", "up_proj"]
    config = lora_config(model, LORA.model_copy(update={"target_modules": "mlp"}))
    adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
    changed = {n for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert len(changed) == 6 and not any("self_attn" in name for name in changed)


def test_a_group_that_the_model_lacks_is_told():
    with pytest.raises(ParamsError, match="no mlp layers .it has fc1, fc2, ") as error:
        target_modules(build("opt", word_embed_proj_dim=32), "mlp")
    assert "\n" not in str(error.value)


def test_the_params_arrive_under_pefts_own_names():
    lora = LORA.model_copy(
        update={"target_modules": ["v_proj", "q_proj"], "use_dora": True, "use_rslora": True}
    )
    config = lora_config(build("llama"), lora).to_dict()
    for key, value in lora.model_dump(exclude={"target_modules"}).items():
        assert config[key] == value, key
    assert set(config["target_modules"]) == {"q_proj", "v_proj"}
