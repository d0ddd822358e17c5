"""Tiny models of any kind, with random weights."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 0,
}


def tiny_model(
    kind: str, vocab_size: int, *, attention: str | None = None, **settings: object
) -> PreTrainedModel:
    """Return the same model each time, in evaluation mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SIZES | {"vocab_size": vocab_size} | settings))
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
