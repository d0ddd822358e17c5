"""What similar products cost and what words suggest: evidence for prompts, baselines, users.

Imports the ground and products; no torch.
"""
