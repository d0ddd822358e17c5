"""Prompts and completions as batches of token ids, and the order they come in."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import (
    PreTrainedTokenizerBase,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from pricer.model.padding import padded
from pricer.products.prompts import encode_completions, encode_prompts

IGNORED = -100  # the label of a token that does not count in the loss


def build_examples(tokenizer: PreTrainedTokenizerBase, prompts: pd.DataFrame) -> Dataset:
    """Return token ids and labels of a prompts table; the prompt's labels are ignored."""
    texts, completions = prompts["prompt"].tolist(), prompts["completion"].tolist()
    prompt_ids = encode_prompts(tokenizer, texts)
    completion_ids = encode_completions(tokenizer, texts, completions)
    return Dataset.from_dict(
        {
            "id": prompts["id"].tolist(),
            "input_ids": [p + c for p, c in zip(prompt_ids, completion_ids, strict=True)],
            "labels": [
                [IGNORED] * len(p) + c for p, c in zip(prompt_ids, completion_ids, strict=True)
            ],
        }
    )


def collate(examples: list[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return a batch (b, longest), padded so that all completions end together.

    Every real token keeps the position it has alone. `id` (b,) says which products they are.
    """
    sequences = [example["input_ids"] for example in examples]
    input_ids, attention_mask = padded(sequences, pad_token_id)
    labels = torch.full_like(input_ids, IGNORED)
    labels[attention_mask.bool()] = torch.tensor(
        [label for example in examples for label in example["labels"]]
    )
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return {
        "id": torch.tensor([example["id"] for example in examples]),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "labels": labels,
    }


class EpochOrder(Sampler[int]):
    """The order of examples in each epoch, from the seed and the epoch alone.

    No other random number has a part in it, so a resumed run goes on where it was.
    """

    def __init__(self, lengths: list[int], *, group: int | None, seed: int) -> None:
        """Take what the order depends on.

        Args:
            lengths: tokens of each example.
            group: examples of an optimizer step, to be of like lengths; None for a random order.
                The steps themselves are in random order, but for the first, the longest: if memory
                does not do for that, it is known at once.
            seed: of the shuffling.
        """
        self.lengths = lengths
        self.group = group
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of one epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.group is None:
            return iter(torch.randperm(len(self.lengths), generator=generator).tolist())
        # the library leaves hundreds of steps sorted from long to short, and a model unlearns at
        # one end what it learnt at the other
        rows = get_length_grouped_indices(self.lengths, self.group, generator=generator)
        steps = [rows[start : start + self.group] for start in range(0, len(rows), self.group)]
        first, *others = steps[: len(rows) // self.group] or [[]]
        order = torch.randperm(len(others), generator=generator).tolist()
        rest = rows[len(rows) // self.group * self.group :]
        return chain(first, *(others[place] for place in order), rest)
