"""Fine-tuning: one run from prompts to an adapter, resumed where it was interrupted.

Imports the ground, products, model and prices; not judging.
"""
