"""Prediction: prompts in batches to greedy text, text to a price."""

import re
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pricer.errors import BaseModelError
from pricer.prompts import encode_prompts

_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")


def parse_price(text: str) -> float | None:
    r"""Return the first number in generated text as USD, None where there is none.

    The reference recipe's rule: `$` and `,` are dropped, then the first match of
    `[-+]?\d*\.\d+|\d+`.
    """
    match = _NUMBER.search(text.replace("$", "").replace(",", ""))
    return float(match[0]) if match else None


def load_adapter(base_model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PeftModel:
    """Put the adapter in `folder` on `base_model`, for prediction in `dtype`.

    Raises:
        BaseModelError: the adapter does not fit the base model.
    """
    try:
        model = PeftModel.from_pretrained(base_model, str(folder)).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise BaseModelError(f"{folder}: cannot be put on this base model ({first})") from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            # trained in float32; casting once is cheaper than with every token
            parameter.data = parameter.data.to(dtype)
    return model


@torch.inference_mode()
def predict_texts(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """Continue each prompt with the most likely tokens; nothing is sampled.

    Args:
        model: base model, with or without an adapter.
        tokenizer: the base model's.
        prompts: texts that end with the price prefix.
        batch_size: prompts a forward pass; they are batched by length.
        max_new_tokens: tokens generated at most.

    Returns:
        The continuations without special tokens, in the order of `prompts`.
    """
    encoded = encode_prompts(tokenizer, prompts)
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    # nothing of the base model's own generation settings, which may sample
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    device = model.device
    texts = [""] * len(prompts)
    interval = 0.1 if sys.stderr.isatty() else 30
    with tqdm(total=len(prompts), desc="predict", unit="item", mininterval=interval) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            longest = len(encoded[rows[0]])
            input_ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
            attention_mask = torch.zeros_like(input_ids)
            for place, row in enumerate(rows):
                input_ids[place, longest - len(encoded[row]) :] = torch.tensor(encoded[row])
                attention_mask[place, longest - len(encoded[row]) :] = 1
            generated = model.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=settings,
            )
            continued = tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
            for row, text in zip(rows, continued, strict=True):
                texts[row] = text
            bar.update(len(rows))
    return texts
