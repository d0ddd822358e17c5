"""The base model: where it comes from, its quantized weights and tokenizer, adapters on it.

Imports the ground and products.
"""
