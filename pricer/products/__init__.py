"""What is sold: items and their sources, the built-in catalogue, readers of files, prompts.

Imports the ground alone; no torch.
"""
