"""The HTTP service: its routes and page, its queue, its log, several adapters side by side.

Imports the ground, products, evidence, model, prices and judging; only commands import it.
"""
