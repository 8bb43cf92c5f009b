"""Attention along the paths of a forest: each node sees the nodes that it continues, and itself causally."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ftp.lm.prefixes import depths_of, ranges_of
from ftp.lm.torch_attention import (
    OWN_KERNEL,
    WIDTHS,
    attend,
    attend_one,
    blocks_of,
    flash_attend,
    rounded,
    write_blocks,
)

Ranges = list[tuple[int, int]]


def attend_along_paths(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    lengths: tuple[int, ...],
    parents: tuple[int, ...] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `ftp.lm.torch_attention.attend`, and in documents that continue others along the path of each.

    On CUDA with half precision by flash attention, whose causal mask ends with the last key; on a CPU by
    `PathAttention` where nodes are short; else node by node with torch's own attention.

    Args:
        query: [1, heads, T, head size]; `key` and `value` may have fewer heads.
        lengths: tokens of each node; they add up to T.
        parents: for each node the one before it that it continues, or -1; None where none continues another.

    Returns:
        [1, T, heads, head size] in the type of `value`, and None for the weights.
    """
    options: dict[str, Any] = {
        "scaling": scaling,
        "dropout": dropout,
        "sliding_window": sliding_window,
        "softcap": softcap,
    }
    if parents is None:
        return attend(module, query, key, value, attention_mask, lengths=lengths, **options, **kwargs)
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    depths, ranges = depths_of(lengths, parents), ranges_of(lengths, parents)
    keys = tuple(depth + length for depth, length in zip(depths, lengths, strict=True))
    window = sliding_window if sliding_window is not None and sliding_window < max(keys) else None
    if dropout == 0 and softcap is None:
        half = q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] == v.shape[-1] <= 256
        if q.is_cuda and half:
            index = _index(lengths, parents, q.device)
            return flash_attend(q, k[index], v[index], lengths, keys, scale, window)[None], None
        largest = max(length * width for length, width in zip(lengths, keys, strict=True))
        if window is None and largest <= OWN_KERNEL**2 and not q.is_cuda:
            attended: torch.Tensor = PathAttention.apply(q, k, v, lengths, parents, scale)
            return attended[None], None
    parts = []
    for path in ranges:
        start, stop = path[-1]
        ks, vs = (torch.cat([states[a:b] for a, b in path]) for states in (k, v))
        parts.append(attend_one(q[start:stop], ks, vs, scale, dropout, window, softcap))
    return torch.cat(parts)[None], None


@lru_cache(maxsize=1)
def _index(lengths: tuple[int, ...], parents: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return the positions of the keys of all nodes, one node after the other."""
    paths = ranges_of(lengths, parents)
    return torch.cat([torch.arange(a, b) for path in paths for a, b in path]).to(device)


class Group(NamedTuple):
    """Nodes of like size, which go through the products together."""

    width: int
    """Queries, rounded up."""
    keys: int
    """Keys, rounded up."""
    places: list[tuple[int, int]]
    paths: list[Ranges]
    mask: torch.Tensor
    """[nodes or 1, 1, width, keys]: 0 where a query may attend and -inf elsewhere, filling included."""


@lru_cache(maxsize=4)
def _groups(lengths: tuple[int, ...], parents: tuple[int, ...], dtype: torch.dtype) -> list[Group]:
    depths, ranges = depths_of(lengths, parents), ranges_of(lengths, parents)
    members: dict[tuple[int, int], list[int]] = {}
    for node, (length, depth) in enumerate(zip(lengths, depths, strict=True)):
        width = rounded(length, WIDTHS)
        members.setdefault((width, rounded(depth + width, WIDTHS)), []).append(node)
    groups = []
    for (width, keys), nodes in members.items():
        before = torch.tensor(sorted({depths[node] for node in nodes}))
        if len(before) > 1:
            before = torch.tensor([depths[node] for node in nodes])
        seen = torch.arange(keys) <= before[:, None, None, None] + torch.arange(width)[:, None]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        paths = [ranges[node] for node in nodes]
        groups.append(Group(width, keys, [path[-1] for path in paths], paths, mask))
    return groups


class PathAttention(torch.autograd.Function):
    """`DocumentAttention` for the nodes of a forest: keys and values are those of a node's whole path.

    A node's queries see no filling: it lies behind the last key of its path. Gradients of keys and values of a node are
    summed in float32 over all nodes that continue it.
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, lengths: Any, parents: Any, scale: float) -> Any:
        heads, out, kept = k.shape[1], torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype), []
        for group in _groups(lengths, parents, q.dtype):
            qs = blocks_of(q, heads, group.width, group.places)
            ks, vs = (_path_blocks(states, group) for states in (k, v))
            write_blocks(out, torch.bmm(_weights(qs, ks, group, scale), vs), heads, group.width, group.places)
            kept += [qs, ks, vs]
        ctx.save_for_backward(*kept)
        ctx.forest, ctx.scale, ctx.shapes = (lengths, parents, q.dtype), scale, (q.shape, k.shape, v.shape)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        kept, (of_q, of_k, of_v) = ctx.saved_tensors, ctx.shapes
        heads, dq = of_k[1], torch.empty(of_q, dtype=grad.dtype)
        dk, dv = (torch.zeros(shape, dtype=torch.float32) for shape in (of_k, of_v))
        for at, group in enumerate(_groups(*ctx.forest)):
            qs, ks, vs = kept[3 * at : 3 * at + 3]
            weights = _weights(qs, ks, group, ctx.scale)
            dout = blocks_of(grad, heads, group.width, group.places)
            dscores = torch._softmax_backward_data(torch.bmm(dout, vs.transpose(1, 2)), weights, -1, weights.dtype)
            dscores.mul_(ctx.scale)
            write_blocks(dq, torch.bmm(dscores, ks), heads, group.width, group.places)
            _add_path_blocks(dk, torch.bmm(dscores.transpose(1, 2), qs), group)
            _add_path_blocks(dv, torch.bmm(weights.transpose(1, 2), dout), group)
        return dq, dk.to(grad.dtype), dv.to(grad.dtype), None, None, None


def _path_blocks(states: torch.Tensor, group: Group) -> torch.Tensor:
    """Copy the paths of nodes from [T, heads, size] to [nodes * heads, keys, size], padded with zeros."""
    _, heads, size = states.shape
    blocks = states.new_zeros(len(group.paths), heads, group.keys, size)
    for block, path in zip(blocks, group.paths, strict=True):
        at = 0
        for start, stop in path:
            block[:, at : at + stop - start] = states[start:stop].transpose(0, 1)
            at += stop - start
    return blocks.view(-1, group.keys, size)


def _add_path_blocks(place: torch.Tensor, found: torch.Tensor, group: Group) -> None:
    """Add the inverse of `_path_blocks` to [T, heads, size]."""
    _, heads, size = place.shape
    for block, path in zip(found.view(-1, heads, group.keys, size), group.paths, strict=True):
        at = 0
        for start, stop in path:
            place[start:stop] += block[:, at : at + stop - start].transpose(0, 1)
            at += stop - start


def _weights(qs: torch.Tensor, ks: torch.Tensor, group: Group, scale: float) -> torch.Tensor:
    """Compute the attention weights, [nodes * key heads, queries of a key head's group * width, keys]."""
    nodes = len(group.paths)
    scores = torch.bmm(qs, ks.transpose(1, 2)).view(nodes, -1, group.width, group.keys)
    scores.mul_(scale).add_(group.mask)
    return torch.softmax(scores, -1).view(len(qs), -1, group.keys)
