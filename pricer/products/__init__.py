"""What is sold: items and where they come from, the built-in catalogue, prompts.

Imports the ground alone; no torch.
"""
