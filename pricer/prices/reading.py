"""The exact distribution over whole-dollar prices, read from a model along the trie."""

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from pricer.model.attention import additive_mask
from pricer.model.padding import shared_tokens
from pricer.prices.trie import PriceTrie

# What a pass is worth: it reads and dequantizes the weights again, so this many tokens more in
# another pass cost less (SmolLM2 in nf4 on two CPU cores, docs/decisions/0004)
PASS_TOKENS = 200
PACKED = 16  # nodes of the last level side by side on one copy of their prompt's cache
INNER = 0.05  # part of what may be left unread that may be before the last level


@torch.inference_mode()
def read_prices(
    model: PreTrainedModel | PeftModel,
    trie: PriceTrie,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    max_dropped_mass: float,
    keep_cache: bool = False,
    at_once: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
    """Return each value's log probability as the number that follows each prompt.

    One pass over the prompts scores the first token of every value; where that settles the value
    (one token each) nothing else is run. Otherwise, for a few prompts the whole trie is part of
    that pass; for more, the nodes of each level follow in a pass of their own over the prompts'
    cached keys and values. A node sees its prompt and its own path alone.

    Nodes of least mass are not read while what they hold together stays under `max_dropped_mass`
    of what the first tokens of all values hold, chosen for each prompt alone and on either way,
    so that no result depends on its batch. What such a node holds is spread over the values below
    it as the nodes beside it spread theirs ("23" as "21"): much the same for the last digit.

    Args:
        model: in evaluation mode.
        trie: of the model's tokenizer.
        input_ids: (b, longest), prompts padded on either side or after what they share.
        attention_mask: (b, longest), 1 for real tokens.
        max_dropped_mass: share that may be left unread for each prompt, 0 for none.
        keep_cache: return the cache also where scoring needs none.
        at_once: read the whole trie with the prompts, or level by level; None for the quicker.

    Returns:
        Log probabilities (b, values) in float64; the probability of nodes that were not read
        (b,), at most `max_dropped_mass`: no set of values is off by more; the cache, which begins
        with the prompts, where one was kept.
    """
    b = len(input_ids)
    device = input_ids.device
    deepest = int(trie.depths.max())
    if at_once is None:
        at_once = b * (len(trie.depths) - 1) < PASS_TOKENS * deepest
    [node_edges, value_edges] = _tensors(device, trie.node_edges, trie.value_edges)
    # log probability of the path that ends with each edge
    paths = torch.full((b, len(trie.edge_tokens)), -torch.inf, dtype=torch.float64, device=device)
    dropped = torch.zeros(b, dtype=torch.float64, device=device)

    logits, cache = _read_prompts(
        model,
        input_ids,
        attention_mask,
        trie if at_once else None,
        use_cache=keep_cache or (deepest > 0 and not at_once),
    )
    rows = torch.arange(b, device=device)
    root = torch.zeros((b, 1), dtype=torch.long, device=device)
    _read_children(paths, trie, logits[:, :1], rows, root, root == 0)
    levels = None if at_once else _Levels(model, trie, attention_mask, cache)
    may_skip = max_dropped_mass * paths.exp().sum(dim=1)
    read = torch.zeros((b, len(trie.depths)), dtype=torch.bool, device=device)
    read[:, 0] = True
    for depth in range(1, deepest + 1):
        level = (trie.depths == depth).nonzero()[0]
        [nodes, parents] = _tensors(device, level, trie.parents[level])
        # a node can be read where its parent was
        mass = paths[:, node_edges[nodes]].exp() * read[:, parents]
        # the heaviest below each parent is read, for the others to be likened to
        first = torch.zeros_like(mass, dtype=torch.bool)
        for parent in set(parents.tolist()):
            family = (parents == parent).nonzero()[:, 0]
            first.scatter_(1, family[mass[:, family].argmax(dim=1, keepdim=True)], True)
        mass, order = mass.sort(dim=1, descending=True, stable=True)
        # beside these a node is read unless it and all lighter ones together fit into the budget
        budget = (may_skip - dropped) * (1 if depth == deepest else INNER)
        lighter = mass.flip(1).cumsum(dim=1).flip(1)
        keep = ((lighter > budget[:, None]) | first.gather(1, order)) & (mass > 0)
        dropped += (mass * ~keep).sum(dim=1)
        width = int(keep.sum(dim=1).max())
        if width == 0:
            break
        # those that are read come first
        place = (~keep).long().argsort(dim=1, stable=True)[:, :width]
        keep, chosen = keep.gather(1, place), nodes[order.gather(1, place)]
        read.scatter_(1, chosen, keep)
        if levels is None:
            _read_children(paths, trie, logits[rows[:, None], chosen], rows, chosen, keep)
        elif depth < deepest:
            _read_children(paths, trie, levels.read(chosen, depth), rows, chosen, keep)
        else:
            packed, chosen, keep = _pack(chosen, keep)
            own = levels.read(chosen, depth, packed)
            _read_children(paths, trie, own, packed, chosen, keep)
        _spread(paths, trie, level, read)
    return paths[:, value_edges], dropped, cache


def _pack(
    chosen: torch.Tensor, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut rows of kept nodes, first in each row, into rows of PACKED: few places are empty.

    Args:
        chosen: (b, width) nodes.
        keep: (b, width), which of them count.

    Returns:
        The row of `chosen` that each new row is from, the nodes, and which of them count.
    """
    counts = keep.sum(dim=1)
    parts = (counts + PACKED - 1) // PACKED
    rows = torch.repeat_interleave(torch.arange(len(chosen), device=chosen.device), parts)
    part = torch.arange(len(rows), device=chosen.device) - (parts.cumsum(0) - parts)[rows]
    places = part[:, None] * PACKED + torch.arange(PACKED, device=chosen.device)
    nodes = chosen[rows].gather(1, places.clamp(max=chosen.shape[1] - 1))
    return rows, nodes, places < counts[rows, None]


def _spread(
    paths: torch.Tensor, trie: PriceTrie, level: NDArray[np.int64], read: torch.Tensor
) -> None:
    """Give what each unread node of a level holds to the edges that leave it.

    Each gets the share that edges with its token have of the nodes of the level that were read.

    Args:
        paths: (b, edges), changed.
        trie: the trie.
        level: nodes of one depth.
        read: (b, nodes), which were read.
    """
    children = trie.node_children[level]
    real = children >= 0
    tokens, kinds = np.unique(trie.edge_tokens[children[real]], return_inverse=True)
    parents, families = np.unique(trie.parents[level], return_inverse=True)
    each = real.sum(axis=1)
    [edges, kind, node, family, node_edges] = _tensors(
        paths.device,
        children[real],
        kinds,
        np.repeat(level, each),
        np.repeat(families, each),
        trie.node_edges,
    )
    known, mass = read[:, node], paths[:, node_edges[node]].exp()
    shape = (2, len(paths), len(parents), len(tokens))
    found = torch.zeros(shape, dtype=paths.dtype, device=paths.device).flatten(2)
    place = (family * len(tokens) + kind).expand_as(mass)
    found[0].scatter_add_(1, place, paths[:, edges].exp() * known)
    found[1].scatter_add_(1, place, mass * known)
    every = found.view(shape).sum(dim=2, keepdim=True).expand(shape).flatten(2)
    found = torch.where(found[1] > 0, found, every)
    share = found[0] / found[1].clamp(min=torch.finfo(paths.dtype).tiny)
    paths[:, edges] = torch.where(known, paths[:, edges], (mass * share.gather(1, place)).log())


def _read_prompts(
    model: PreTrainedModel | PeftModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    trie: PriceTrie | None,
    *,
    use_cache: bool,
) -> tuple[torch.Tensor, DynamicCache | None]:
    """Return the logits at the end of each prompt, and at every other node of a trie if given.

    Returns:
        (b, nodes, vocabulary), or (b, 1, vocabulary) without a trie; the cache.
    """
    b, longest = input_ids.shape
    device = input_ids.device
    lengths = attention_mask.sum(dim=1)
    mask, added = attention_mask, 0
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    if trie is not None:
        added = len(trie.depths) - 1
        node_tokens, depths = _tensors(device, trie.node_tokens[1:], trie.depths[1:])
        input_ids = torch.cat([input_ids, node_tokens.expand(b, added)], dim=1)
        position_ids = torch.cat([position_ids, lengths[:, None] - 1 + depths], dim=1)
        visible = torch.ones((b, longest + added, longest + added), dtype=torch.bool).tril()
        visible = visible.to(device)
        visible[:, :, :longest] &= attention_mask[:, None].bool()
        visible[:, longest:, longest:] = torch.as_tensor(trie.paths_above, device=device)
        mask = additive_mask(visible, model.dtype)
    end_together = bool(attention_mask[:, -1].all())
    shared, cache = 0, None
    if trie is None and use_cache and b > 1:
        shared = min(shared_tokens(input_ids, attention_mask), longest - 1)
        cache = _read_shared(model, input_ids[:1, :shared], b) if shared else None
    outputs = model(
        input_ids=input_ids[:, shared:],
        attention_mask=mask,
        position_ids=position_ids[:, shared:],
        past_key_values=cache,
        use_cache=use_cache,
        logits_to_keep=1 + added if end_together else 0,
    )
    logits = outputs.logits
    if not end_together:
        ends = logits[torch.arange(b, device=device), lengths - 1 - shared]
        logits = torch.cat([ends[:, None], logits[:, longest:]], dim=1)
    return logits, outputs.past_key_values


def _read_shared(
    model: PreTrainedModel | PeftModel, input_ids: torch.Tensor, b: int
) -> DynamicCache:
    """Return the cache of the tokens (1, shared) that `b` prompts begin with."""
    cache = model(input_ids=input_ids, use_cache=True, logits_to_keep=1).past_key_values
    return _rows_of(cache, torch.zeros(b, dtype=torch.long, device=input_ids.device))


def _rows_of(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """Return a copy of some rows of a cache."""
    chosen = DynamicCache()
    for number, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], number)
    return chosen


class _Levels:
    """Passes over the nodes of one level after the other, on the prompts' cached keys and values.

    Args:
        model: the model that read the prompts.
        trie: of the prices.
        attention_mask: (b, longest) of the prompts.
        cache: of the prompts; it grows.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        trie: PriceTrie,
        attention_mask: torch.Tensor,
        cache: DynamicCache | None,
    ) -> None:
        self._model, self._trie, self._cache = model, trie, cache
        self._prompts = attention_mask
        self._seen = attention_mask.shape[1]
        # where each node's keys and values lie in the cache
        self._slots = torch.zeros(
            (len(attention_mask), len(trie.depths)), dtype=torch.long, device=attention_mask.device
        )

    def read(
        self, chosen: torch.Tensor, depth: int, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits (b, width, vocabulary) at nodes `chosen` (b, width) of one depth.

        With `rows`, the prompts that these belong to, nothing can be read after them.
        """
        b, width = chosen.shape
        cache, prompts, slots = self._cache, self._prompts, self._slots
        if rows is not None:
            cache, prompts, slots = _rows_of(cache, rows), prompts[rows], slots[rows]
        device, longest = chosen.device, prompts.shape[1]
        own = self._seen + torch.arange(width, device=device)
        slots.scatter_(1, chosen, own.expand(b, width))
        visible = torch.zeros((b, width, self._seen + width), dtype=torch.bool, device=device)
        visible[:, :, :longest] = prompts[:, None].bool()
        visible[:, torch.arange(width, device=device), own] = True
        [nodes] = _tensors(device, (self._trie.depths == depth).nonzero()[0])
        for place in range(depth - 1):
            above = torch.zeros(len(self._trie.depths), dtype=torch.long, device=device)
            ancestors = [self._trie.ancestors[node][place] for node in nodes.tolist()]
            above[nodes] = torch.tensor(ancestors, device=device)
            visible.scatter_(2, slots.gather(1, above[chosen])[:, :, None], True)
        [node_tokens] = _tensors(device, self._trie.node_tokens)
        outputs = self._model(
            input_ids=node_tokens[chosen],
            attention_mask=additive_mask(visible, self._model.dtype),
            position_ids=(prompts.sum(dim=1) + depth - 1)[:, None].expand(b, width),
            past_key_values=cache,
            use_cache=True,
        )
        self._seen += width
        logits: torch.Tensor = outputs.logits
        return logits


def _tensors(device: torch.device, *arrays: NDArray[np.int64]) -> list[torch.Tensor]:
    return [torch.as_tensor(array, dtype=torch.long, device=device) for array in arrays]


def _read_children(
    paths: torch.Tensor,
    trie: PriceTrie,
    logits: torch.Tensor,
    rows: torch.Tensor,
    nodes: torch.Tensor,
    keep: torch.Tensor,
) -> None:
    """Write the log probability of every path that leaves a kept node.

    Args:
        paths: (b, edges), changed.
        trie: the trie.
        logits: (n, width, vocabulary) at the nodes.
        rows: (n,) of `paths` that they belong to.
        nodes: (n, width).
        keep: (n, width), which of them count.
    """
    tokens, node_edges, children = _tensors(
        logits.device, trie.edge_tokens, trie.node_edges, trie.node_children
    )
    for place, row in enumerate(rows.tolist()):  # the vocabulary in float32 for one at a time
        own = nodes[place][keep[place]]
        scores = logits[place][keep[place]].float()
        edges = children[own]
        log_probs = scores.gather(1, tokens[edges.clamp(min=0)]) - scores.logsumexp(1, True)
        before = torch.where(own > 0, paths[row, node_edges[own]], 0.0)
        found = edges >= 0
        paths[row, edges[found]] = (before[:, None] + log_probs)[found]
