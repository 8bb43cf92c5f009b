"""Rows of tokens as a forest: tokens that several rows begin with are one node, and what follows are its branches.

Causal attention computes the same states for equal beginnings, so they can be computed once, forward and backward: the
gradients of a node are the sums of those of its rows. Wang and Hegde 2024 (arXiv:2410.20305) do so for pairs of answers
and Liu et al. 2025 (arXiv:2506.05433) for groups of them; here it is done for any rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

SHORTEST = 16
"""Fewest tokens that are worth a node of their own."""
GROUPED = 64
"""Fewest tokens for which rows are put into one step."""

Lengths = tuple[int, ...]
Parents = tuple[int, ...]


@dataclass(slots=True)
class Forest:
    """Nodes in an order in which each one follows its parent."""

    lengths: list[int] = field(default_factory=list)
    """Tokens of each node."""
    parents: list[int] = field(default_factory=list)
    """The node that each one continues, -1 for one that a row begins with."""
    tokens: list[list[int]] = field(default_factory=list)
    """The tokens of each node."""
    paths: list[tuple[int, ...]] = field(default_factory=list)
    """For each row the nodes that it consists of, from its first token to its last."""

    def add(self, tokens: list[int], parent: int) -> int:
        """Append a node and return its number."""
        self.lengths.append(len(tokens))
        self.parents.append(parent)
        self.tokens.append(tokens)
        return len(self.lengths) - 1


def forest_of(rows: Sequence[Sequence[int]], shortest: int = SHORTEST) -> Forest:
    """Return the forest of rows of token ids.

    Args:
        shortest: fewest tokens of a node with several rows.
    """
    ids = [list(row) for row in rows]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    common = [_common(ids[a], ids[b]) for a, b in pairwise(order)]
    forest = Forest(paths=[()] * len(ids))
    # Runs of rows, in alphabetical order, that share `depth` tokens, which are the nodes of `path`.
    runs: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(order), 0, ())] if order else []
    while runs:
        low, high, depth, path = runs.pop()
        for start, stop in _splits(common, low, high, depth + shortest):
            row = ids[order[start]]
            shared = len(row) if stop == start + 1 else min(common[start : stop - 1])
            nodes = path
            if shared > depth:
                nodes = (*path, forest.add(row[depth:shared], path[-1] if path else -1))
            if stop == start + 1:
                forest.paths[order[start]] = nodes
            else:
                runs.append((start, stop, shared, nodes))
    return forest


def _common(a: list[int], b: list[int]) -> int:
    """Count the tokens that two rows begin with alike."""
    width = min(len(a), len(b))
    if a[:width] == b[:width]:
        return width
    return int(np.argmax(np.asarray(a[:width]) != np.asarray(b[:width])))


def _splits(common: Sequence[int], low: int, high: int, least: int) -> list[tuple[int, int]]:
    """Cut rows low … high into maximal runs of neighbours that share `least` tokens."""
    cuts = [low, *(at + 1 for at in range(low, high - 1) if common[at] < least), high]
    return list(pairwise(cuts))


class Copy(NamedTuple):
    """What a row can take over from another instead of computing it."""

    source: int
    """The other row; -1 for none."""
    tokens: int
    """How many tokens both begin with; at least one of the row's own is left to compute."""
    turn: int
    """When the row can be computed: after all of lower turns, which begin at 0."""


def copies_of(
    rows: Sequence[Sequence[int]], known: int = 0, shortest: int = SHORTEST, least_of_turn: int = 0
) -> list[Copy]:
    """Return for each row what it can copy from another one, so that common beginnings of any depth are computed once.

    Args:
        rows: token ids, those of rows that are computed already first.
        known: how many those are.
        shortest: fewest tokens that are copied.
        least_of_turn: fewest tokens that all rows of a later turn have to copy together; else they are computed whole
            in the first one.
    """
    ids = [list(row) for row in rows]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    common = [_common(ids[a], ids[b]) for a, b in pairwise(order)]
    copies = [Copy(-1, 0, -1 if number < known else 0) for number in range(len(ids))]
    for at, number in enumerate(order):
        if number >= known:
            found = [_source(order, common, at, known, step, copies) for step in (-1, 1)]
            source, tokens = max(found, key=lambda pair: (pair[1], -copies[pair[0]].turn))
            tokens = min(tokens, len(ids[number]) - 1)
            if tokens >= shortest:
                copies[number] = Copy(source, tokens, copies[source].turn + 1)
    for turn in range(1, 1 + max((copy.turn for copy in copies), default=0)):
        if sum(copy.tokens for copy in copies if copy.turn == turn) < least_of_turn:
            copies = [Copy(-1, 0, 0) if copy.turn == turn else copy for copy in copies]
    return copies


def _source(
    order: Sequence[int], common: Sequence[int], at: int, known: int, step: int, copies: Sequence[Copy]
) -> tuple[int, int]:
    """Return the row from which row `order[at]` can copy most, and how much; rows before it are computed before it.

    Args:
        step: -1 to look at those before it, 1 for those behind it, of which only known ones count.
    """
    source, most, shared, place = -1, 0, max(common, default=0), at
    while 0 <= place + step < len(order):
        shared = min(shared, common[place + min(step, 0)])
        if not shared or shared < most:
            break
        place += step
        other = order[place]
        if step > 0 and other >= known:
            continue
        if source < 0 or copies[other].turn < copies[source].turn:
            source, most = other, shared
    return source, most


def reading_order(rows: Sequence[Sequence[int]], least: int = GROUPED) -> list[int]:
    """Return the numbers of rows from the longest on; those that share a beginning follow the longest of them.

    A beginning is what rows share with one another and, `least` tokens shorter, with no others: with a system prompt
    and several documents, each document with the system prompt before it.
    """
    order = sorted(range(len(rows)), key=lambda number: list(rows[number]))
    common = [_common(list(rows[a]), list(rows[b])) for a, b in pairwise(order)]
    most = [max(pair) for pair in pairwise([0, *common, 0])]
    cuts = [at + 1 for at, shared in enumerate(common) if shared + least <= max(most[at], most[at + 1])]
    groups = [order[a:b] for a, b in pairwise([0, *cuts, len(order)])] if order else []
    by_length = [sorted(group, key=lambda number: (-len(rows[number]), number)) for group in groups]
    return [number for group in sorted(by_length, key=lambda group: -len(rows[group[0]])) for number in group]


def prefix_groups(column: Any, most: int) -> list[int] | None:
    """Return for each row the number of the group with which it shares its beginning, -1 for a row without a group.

    A group is rows with the same first 64, 128, 256, … tokens, for the longest beginning that other rows have too. One
    that more than `most` rows begin with, such as a system prompt, makes no group: those rows meet anyway.

    Args:
        column: an Arrow column of lists of token ids.

    Returns:
        None if no row has a group.
    """
    groups = np.full(len(column), -1, dtype=np.int64)
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks] or [groups])
    depth = GROUPED
    while depth <= lengths.max(initial=0):
        keys = np.array([_key(tokens, depth) for tokens in _rows(column)], dtype=np.uint64)
        _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
        together = (lengths >= depth) & (counts[numbers] > 1) & (counts[numbers] <= most)
        groups[together] = depth * len(groups) + numbers[together]
        depth *= 2
    return groups.tolist() if (groups >= 0).any() else None


def _rows(column: Any) -> Iterator[Any]:
    """Yield the token ids of each row, an array."""
    for chunk in column.chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        yield from (values[start:stop] for start, stop in pairwise(offsets))


def _key(tokens: Any, depth: int) -> int:
    """Return a number for the first `depth` tokens, 0 for a shorter row."""
    return int.from_bytes(blake2b(tokens[:depth].tobytes(), digest_size=8).digest()) if len(tokens) >= depth else 0


@lru_cache(maxsize=8)
def ranges_of(lengths: Lengths, parents: Parents) -> list[list[tuple[int, int]]]:
    """Return for each node where the tokens of its path lie in the sequence, those of its own last."""
    ranges: list[list[tuple[int, int]]] = []
    start = 0
    for length, parent in zip(lengths, parents, strict=True):
        ranges.append([*(ranges[parent] if parent >= 0 else ()), (start, start + length)])
        start += length
    return ranges


@lru_cache(maxsize=8)
def depths_of(lengths: Lengths, parents: Parents) -> tuple[int, ...]:
    """Return for each node the tokens before it on its path."""
    depths: list[int] = []
    for parent in parents:
        depths.append(depths[parent] + lengths[parent] if parent >= 0 else 0)
    return tuple(depths)
