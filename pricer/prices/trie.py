"""The trie of price tokens: whole-dollar prices as paths of tokens after a prompt."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from pricer.errors import BaseModelError
from pricer.products.prompts import PREFIX, build_completion, encode_prompts


@dataclass(frozen=True)
class PriceTrie:
    """Whole-dollar prices 0 to `max_price` as paths of tokens after a prompt.

    Node 0 is the end of the prompt; a node stands for the tokens that lead to it, and the model
    must see it before it can say which token comes next. A value ends at an edge. Where a value's
    tokens begin a longer value's ("21" and "219"), its last edge is the token that ends a number
    (the "." of ".00"), so that no path is the beginning of another.

    Attributes:
        node_tokens: (nodes,) token id that leads to each node; -1 for node 0.
        ancestors: for each node, the nodes on its path, node 0 and itself left out.
        node_children: for each node, the edges that leave it, filled up with -1.
        edge_tokens: (edges,) its token id.
        value_edges: (max_price + 1,) the last edge of each value.
        node_edges: (nodes,) the edge that leads to each node; -1 for node 0.
    """

    node_tokens: NDArray[np.int64]
    ancestors: list[list[int]]
    node_children: NDArray[np.int64]
    edge_tokens: NDArray[np.int64]
    value_edges: NDArray[np.int64]
    node_edges: NDArray[np.int64]

    @cached_property
    def depths(self) -> NDArray[np.int64]:
        """(nodes,) tokens after the prompt; 0 for node 0."""
        return np.array([0, *(len(above) + 1 for above in self.ancestors[1:])])

    @cached_property
    def parents(self) -> NDArray[np.int64]:
        """(nodes,) the node before each; -1 for node 0."""
        return np.array([-1, *([0, *above][-1] for above in self.ancestors[1:])])

    @cached_property
    def paths_above(self) -> NDArray[np.bool_]:
        """(nodes - 1, nodes - 1), whether the column's node is on the row's path or the same.

        Node 0 has neither row nor column.
        """
        seen = np.eye(len(self.ancestors) - 1, dtype=bool)
        for row, above in enumerate(self.ancestors[1:]):
            seen[row, [node - 1 for node in above]] = True
        return seen


def build_price_trie(tokenizer: PreTrainedTokenizerBase, max_price: int) -> PriceTrie:
    """Build the trie by tokenizing prefix and completion for each value from 0 to `max_price`.

    Raises:
        BaseModelError: where the prefix ends and the number begins depends on the number, or two
            values have the same tokens.
    """
    return _build_trie(price_paths(tokenizer, max_price))


def price_paths(tokenizer: PreTrainedTokenizerBase, max_price: int) -> list[list[int]]:
    """Return the token ids of each value from 0 to `max_price`, none the beginning of another.

    Raises:
        BaseModelError: as `build_price_trie`.
    """
    context = f"\n\n{PREFIX}"
    [context_ids] = encode_prompts(tokenizer, [context])
    completions = [build_completion(value, rounded=True) for value in range(max_price + 1)]
    texts = [context + completion for completion in completions]
    encoded = encode_prompts(tokenizer, texts)
    spans = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    paths, ends = [], []
    for value, ids in enumerate(encoded):
        if ids[: len(context_ids)] != context_ids:
            raise BaseModelError(
                f"this base model's tokenizer merges {PREFIX!r} with the number {value}: "
                "no distribution over prices can be read from it"
            )
        offsets = spans["offset_mapping"][value]
        begin = len(ids) - len(offsets)  # a begin-of-text token has no span
        number_end = len(context) + len(str(value))
        covering = next(place for place, (_, stop) in enumerate(offsets) if stop >= number_end)
        paths.append(ids[len(context_ids) : begin + covering + 1])
        ends.append(ids[begin + covering + 1 : begin + covering + 2])
    paths = _ended(paths, ends)
    unique = {tuple(path) for path in paths}
    if len(unique) < len(paths) or unique & _beginnings(paths):
        raise BaseModelError("this base model's tokenizer gives two prices the same tokens")
    return paths


def _ended(paths: list[list[int]], ends: list[list[int]]) -> list[list[int]]:
    """Add the token that ends a number to each path that begins a longer one."""
    begun = _beginnings(paths)
    return [
        path + end if tuple(path) in begun else path for path, end in zip(paths, ends, strict=True)
    ]


def _beginnings(paths: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(path[:length]) for path in paths for length in range(1, len(path))}


def _build_trie(paths: list[list[int]]) -> PriceTrie:
    nodes: dict[tuple[int, ...], int] = {(): 0}
    edges: dict[tuple[int, ...], int] = {}
    # level by level, so that a node's parents come before it
    for length in range(1, max(map(len, paths)) + 1):
        for path in paths:
            if len(path) >= length:
                edges.setdefault(tuple(path[:length]), len(edges))
            if len(path) > length:
                nodes.setdefault(tuple(path[:length]), len(nodes))
    children: list[list[int]] = [[] for _ in nodes]
    for way, edge in edges.items():
        children[nodes[way[:-1]]].append(edge)
    widest = max(map(len, children))
    return PriceTrie(
        node_tokens=np.array([-1, *(way[-1] for way in nodes if way)]),
        ancestors=[[nodes[way[:length]] for length in range(1, len(way))] for way in nodes],
        node_children=np.array([own + [-1] * (widest - len(own)) for own in children]),
        edge_tokens=np.array([way[-1] for way in edges]),
        value_edges=np.array([edges[tuple(path)] for path in paths]),
        node_edges=np.array([-1, *(edges[way] for way in nodes if way)]),
    )
