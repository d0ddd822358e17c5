"""Attention on a CPU, written out, of a batch or of its rows side by side as one.

Known to the library by the name GROUPED. Over short, masked sequences this is faster than the
fused kernel, which took a third of a training step, and than the library's own way of writing it
out, which copies keys and values for every head that shares them.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import eager_mask

from pricer.model.folder import attention_window

GROUPED = "grouped"
# kinds of models whose attention is this and no more, as tests show for each
KINDS = ("gemma", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    shared: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return what each query finds, (b, queries, heads, size).

    Args:
        module: the layer.
        query: (b, heads, queries, size).
        key: (b, groups, keys, size), each group for as many heads.
        value: (b, groups, keys, size).
        attention_mask: (b, 1, queries, keys), added to the scores.
        scaling: of the scores.
        dropout: of the weights.
        shared: where the rows lie side by side as one, see `side_by_side`: how many tokens all
            begin with; the mask is that of the rows.
    """
    if shared is not None and attention_mask is not None:
        rows = len(attention_mask)
        query, key, value = (_apart(one, shared, rows) for one in (query, key, value))
    b, heads, queries, size = query.shape
    groups, keys = key.shape[1], key.shape[2]
    scores = query.reshape(b, groups, -1, size) @ key.transpose(2, 3)
    scores = scores.view(b, heads, queries, keys)
    if attention_mask is None:
        scores = scores * scaling
    else:
        scores = torch.add(attention_mask, scores, alpha=scaling)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = torch.dropout(weights, dropout, module.training)
    found = weights.view(b, groups, -1, keys) @ value
    found = found.view(b, heads, queries, -1).transpose(1, 2)
    return found if shared is None else side_by_side(found, shared), None


def side_by_side(rows: torch.Tensor, shared: int) -> torch.Tensor:
    """Return rows (b, longest, ...) as one: what they share once, then the rest of each."""
    rest = rows[:, shared:].reshape(1, -1, *rows.shape[2:])
    return torch.cat([rows[:1, :shared], rest], dim=1)


def _apart(one: torch.Tensor, shared: int, rows: int) -> torch.Tensor:
    """Return the rows (b, heads, longest, size) of which `one` is `side_by_side`."""
    one = one.transpose(1, 2)
    rest = one[:, shared:].reshape(rows, -1, *one.shape[2:])
    return torch.cat([one[:, :shared].expand(rows, -1, -1, -1), rest], dim=1).transpose(1, 2)


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the mask (b, 1, queries, keys) that is added to scores: 0 where `visible`."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def takes_rows_side_by_side(config: PretrainedConfig) -> bool:
    """Tell whether a model was loaded with this attention, and over the whole sequence."""
    return config._attn_implementation == GROUPED and attention_window(vars(config)) is None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
