"""Keys and values of rows in flight, and attention over them as transformers' attention interface calls it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ftp.lm.torch_models import causal_model

NAME = "ftp_rows"
"""What the attention is called in transformers' registry."""
STEP = 32
"""Keys are read up to a multiple of this, so that few shapes occur."""


@dataclass(slots=True)
class Turn:
    """The tokens of one forward pass, of rows that lie beside one another in the cache.

    Tokens lie one after the other, row by row, without padding; within the attention a row has `width` places.
    """

    cache: RowCache
    first: int
    rows: int
    row: torch.Tensor
    """int64 [T]: the row of each token, counted from `first`."""
    place: torch.Tensor
    """int64 [T]: which of its row's tokens in this pass it is."""
    positions: torch.Tensor
    """int64 [T]: its position in its row."""
    width: int
    """Tokens of the longest row in this pass."""
    keys: int
    """Keys that are looked at, a bound on every position."""
    masks: dict[int | None, torch.Tensor]
    """What a query may see for each sliding window, filled when first asked for: bool [rows, 1, width, keys]."""

    def mask(self, window: int | None) -> torch.Tensor:
        """Return which keys each query may see."""
        if window not in self.masks:
            at = self.positions.new_zeros(self.rows, self.width)
            at[self.row, self.place] = self.positions
            key = torch.arange(self.keys, device=at.device)
            seen = key <= at[:, :, None]
            if window is not None:
                seen &= key > at[:, :, None] - window
            self.masks[window] = seen[:, None]
        return self.masks[window]


class RowCache:
    """Keys and values of every layer: for each row a strip of its own, [rows, key heads, capacity, head size].

    Memory is reserved when the first tokens of a layer arrive, since only then its heads are known.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of a layer; `key` and `value` are [heads, T, head size]."""
        if layer not in self.layers:
            # Zeros, since what was never written is multiplied by a weight of 0, and 0 times NaN is NaN.
            new = (states.new_zeros(self.rows, len(states), self.capacity, states.shape[-1]) for states in (key, value))
            self.layers[layer] = tuple(new)  # type: ignore[assignment]
        return self.layers[layer]

    def resize(self, rows: int, capacity: int, keep: int) -> None:
        """Make room for more or fewer rows of another capacity, which holds all that the first `keep` rows have."""
        for layer, pair in self.layers.items():
            resized = (_resized(states, rows, capacity, keep) for states in pair)
            self.layers[layer] = tuple(resized)  # type: ignore[assignment]
        self.rows, self.capacity = rows, capacity

    def copy(self, source: RowCache, from_row: int, to: slice, tokens: int) -> None:
        """Copy the first tokens of a row, also of another cache, into other rows."""
        for layer, (keys, values) in source.layers.items():
            for mine, theirs in zip(self.of(layer, keys[0], values[0]), (keys, values), strict=True):
                mine[to, :, :tokens] = theirs[from_row, :, :tokens]


def _resized(states: torch.Tensor, rows: int, capacity: int, keep: int) -> torch.Tensor:
    _, heads, before, size = states.shape
    found = states.new_zeros(rows, heads, capacity, size)
    both = min(before, capacity)
    found[:keep, :, :both] = states[:keep, :, :both]
    return found


def attend_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    turn: Turn,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Write the new keys and values into the cache and attend over each row's own.

    Args:
        query: [1, heads, T, head size]; `key` and `value` may have fewer heads (grouped-query attention).
        turn: where the tokens belong.
        sliding_window: keys that a query sees at most, itself included.
        softcap: scores are capped to softcap * tanh(scores / softcap), as in Gemma 2.

    Returns:
        [1, T, heads, head size] in the type of `value`, and None for the weights.

    Raises:
        NotImplementedError: the model has attention sinks.
    """
    if s_aux is not None:
        raise NotImplementedError("attention sinks")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (states[0].to(value.dtype) for states in (query, key, value))
    keys, values = turn.cache.of(module.layer_idx, k, v)  # type: ignore[arg-type]
    here = turn.row + turn.first
    keys[here, :, turn.positions] = k.transpose(0, 1)
    values[here, :, turn.positions] = v.transpose(0, 1)
    rows = slice(turn.first, turn.first + turn.rows)
    ks, vs = keys[rows, :, : turn.keys], values[rows, :, : turn.keys]
    heads, groups = len(k), len(q) // len(k)
    # The queries of a key head's group lie below one another: grouped heads need no copies of their keys.
    qs = q.new_zeros(turn.rows, turn.width, heads, groups, q.shape[-1])
    qs[turn.row, turn.place] = q.transpose(0, 1).view(-1, heads, groups, q.shape[-1])
    qs = qs.permute(0, 2, 3, 1, 4).reshape(turn.rows, heads, groups * turn.width, -1)
    window = sliding_window if sliding_window is not None and sliding_window < turn.keys else None
    mask = turn.mask(window)
    if turn.width > 1:
        mask = mask.repeat(1, 1, groups, 1)
    if softcap is None:
        out = functional.scaled_dot_product_attention(qs, ks, vs, mask, scale=scale)
    else:
        scores = torch.tanh(torch.matmul(qs, ks.transpose(2, 3)) * (scale / softcap)) * softcap
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), -1, dtype=torch.float32).to(qs.dtype)
        out = torch.matmul(weights, vs)
    out = out.view(turn.rows, heads, groups, turn.width, -1)[turn.row, :, :, turn.place]
    return out.reshape(1, len(turn.row), heads * groups, -1), None


def attention_configs(model: Any) -> list[Any]:
    """Return the configs by which the parts of a model choose their attention."""
    return list({id(m.config): m.config for m in causal_model(model).modules() if hasattr(m, "config")}.values())


@contextlib.contextmanager
def row_attention(configs: Sequence[Any]) -> Iterator[None]:
    """Let a model with these configs attend over a `RowCache` inside the block; its forward then needs `turn=`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend_rows)
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
