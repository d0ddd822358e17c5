import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from pricer.base_model import load_base_model
from pricer.errors import BaseModelError
from pricer.predictor import load_adapter, parse_price, predict_texts
from pricer.prompts import build_prompt


@pytest.fixture(scope="module")
def model(base_model_dir):
    return load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        load_in_4bit=False,
        load_in_8bit=False,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("219.00", 219.0),
        ("$1,299.00 or so", 1299.0),
        ("about 12 dollars", 12.0),
        (".5", 0.5),
        ("-3.5", -3.5),
        ("-3", 3.0),  # the reference rule knows signs before decimals alone
        ("7.", 7.0),
        ("", None),
        ("no idea", None),
        ("$", None),
    ],
)
def test_parse_price_is_the_reference_rule(text, price):
    assert parse_price(text) == price


@given(st.integers(0, 999))
def test_every_completion_parses_to_its_price(dollars):
    assert parse_price(f"{dollars}.00") == dollars


def predict(model, tokenizer, prompts, batch_size=8):
    return predict_texts(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=4)


def test_batches_of_mixed_lengths_equal_one_by_one_in_order(model, tokenizer, items):
    prompts = [build_prompt(text[: 20 + 9 * i]) for i, text in enumerate(items["summary"][:20])]
    together = predict(model, tokenizer, prompts)
    assert together == predict(model, tokenizer, prompts, batch_size=1)
    assert predict(model, tokenizer, prompts[::-1]) == together[::-1]


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


def test_no_prompts_no_predictions(model, tokenizer):
    assert predict(model, tokenizer, []) == []


def test_an_adapter_that_is_not_there_or_does_not_fit_ends_in_one_line(model, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(BaseModelError, match="cannot be put on this base model") as error:
        load_adapter(model, tmp_path, torch.float32)
    assert "\n" not in str(error.value)
