"""Where token ids go in a batch: padded after what all sequences begin with."""

import os
from collections.abc import Sequence

import torch


def padded_places(sequences: Sequence[list[int]]) -> list[list[int]]:
    """Return the columns of each sequence's tokens in a batch as wide as the longest.

    The shorter ones are padded between what all begin with and the rest, so that the beginning
    can be read once for all, and all end together.
    """
    longest = max(map(len, sequences))
    shared = min(len(os.path.commonprefix(sequences)), min(map(len, sequences)) - 1)
    return [
        [*range(shared), *range(longest - len(sequence) + shared, longest)]
        for sequence in sequences
    ]


def shared_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:
    """Return how many tokens all rows (b, longest) begin with: the question of every prompt."""
    same = (input_ids == input_ids[:1]).all(dim=0) & attention_mask.all(dim=0)
    return int(same.long().cumprod(dim=0).sum())
