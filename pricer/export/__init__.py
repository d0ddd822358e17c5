"""One model out of base weights and adapter: merged weights, GGUF files, combined adapters.

Imports the ground, products, model, prices and judging; only commands import it.
"""
