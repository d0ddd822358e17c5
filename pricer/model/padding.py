"""Sequences of token ids as one batch, padded after what all of them begin with."""

import os
from collections.abc import Sequence

import torch


def padded(sequences: Sequence[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask of sequences, each (n, longest).

    The shorter ones are padded between what all begin with and the rest, so that the beginning
    can be read once for all, and all end together. Where the mask is 1, row by row, lie the tokens
    of one sequence after the other.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])[:, None]
    shared = min(len(os.path.commonprefix(list(sequences))), int(lengths.min()) - 1)
    places = torch.arange(int(lengths.max()))
    real = (places < shared) | (places >= lengths.max() - lengths + shared)
    input_ids = torch.full(real.shape, pad_token_id)
    input_ids[real] = torch.tensor([token for sequence in sequences for token in sequence])
    return input_ids, real.long()


def shared_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:
    """Return how many tokens all rows (b, longest) begin with: the question of every prompt."""
    same = (input_ids == input_ids[:1]).all(dim=0) & attention_mask.all(dim=0)
    return int(same.long().cumprod(dim=0).sum())
