"""Rows in one batch without padding: each row a document of its own that sees no other.

The rows of a batch lie one after the other in a sequence; positions begin anew with every row and attention is causal
within a row. The model's own attention modules call `attend` through transformers' attention
interface, so every family that uses it works, with its own rotary embedding, grouped heads and norms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "ftp_documents"
"""What the attention is called in transformers' registry."""
KEEP_WEIGHTS = 256
"""Attention weights of documents up to this length are kept for the backward pass; of longer ones, made again."""
OWN_KERNEL = 512
"""Up to this length three batched products beat torch's attention on a CPU (two to four times, backward included)."""
SIZES, WIDTHS = 32, 8
"""How many sizes between a power of two and the next one tensors have: of packs, and of documents in the attention."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows as one sequence."""

    input_ids: torch.Tensor
    """int64 [1, T]"""
    position_ids: torch.Tensor
    """int64 [1, T], beginning at 0 with every row."""
    lengths: tuple[int, ...]
    """Tokens of each row, and last of the filling where there is one; their sum is T."""


def pack(rows: Sequence[Sequence[int]], device: Any = "cpu") -> Pack:
    """Lay rows of token ids one after the other, and behind them a row of filling up to a rounded length."""
    import torch

    total = sum(map(len, rows))
    if filling := rounded(total, SIZES) - total:
        rows = [*rows, [0] * filling]
    ids = torch.cat([torch.as_tensor(row, dtype=torch.int64) for row in rows])
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    return Pack(ids[None].to(device), positions[None].to(device), tuple(len(row) for row in rows))


def rounded(size: int, sizes: int) -> int:
    """The next size upwards of those that tensors have: multiples of 8, so many of them between powers of two.

    oneDNN compiles code for every new shape and keeps it, megabytes a step, which also tears the heap to pieces: where
    every batch had a length of its own, memory tripled within fifty steps.
    """
    step = max(8, (1 << max(size - 1, 1).bit_length() - 1) // sizes)
    return -(-size // step) * step


def why_not(model: Any) -> str | None:
    """Why the rows of a batch can't be packed for this model, or None when they can."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config.get_text_config()
    if not getattr(causal, "_supports_attention_backend", False):
        return f"{type(causal).__name__} does not take its attention from transformers' interface"
    if getattr(config, "is_encoder_decoder", False):
        return f"{type(causal).__name__} has an encoder"
    if any(kind not in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or ()):
        return f"{type(causal).__name__} has layers that are no plain attention"
    return None


@contextlib.contextmanager
def documents(model: Any) -> Iterator[None]:
    """Have the model attend within documents while the block lasts; its forward then needs `lengths=pack.lengths`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    configs = {id(m.config): m.config for m in causal.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]


def hidden_states(model: Any, packed: Pack) -> torch.Tensor:
    """The decoder's last hidden states, [T, hidden]. Called inside `documents(model)`."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    out = causal.get_decoder()(
        input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False, lengths=packed.lengths
    )
    states: torch.Tensor = out.last_hidden_state[0]
    return states


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    lengths: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    Args:
        query: [1, heads, T, head size]; `key` and `value` may have fewer heads (grouped-query attention).
        lengths: tokens of each document.

    Returns:
        [1, T, heads, head size], and None for the weights.
    """
    import torch

    if s_aux is not None:
        raise NotImplementedError("attention sinks")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = sliding_window if sliding_window is not None and sliding_window < max(lengths) else None
    # [T, heads, head size], in one type: rotary embeddings of float32 widen bfloat16 queries and keys.
    q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    if dropout == 0 and softcap is None:
        half = q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] == v.shape[-1] <= 256
        if q.is_cuda and half:
            return _on_cuda(q, k, v, lengths, scale, window)[None], None
        if window is None and max(lengths) <= OWN_KERNEL and not q.is_cuda:
            return _kernel().apply(q, k, v, lengths, scale)[None], None
    starts = _starts(lengths)
    parts = [_one(q[a:b], k[a:b], v[a:b], scale, dropout, window, softcap) for a, b in pairwise(starts)]
    return torch.cat(parts)[None], None


def _starts(lengths: tuple[int, ...]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def _on_cuda(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: tuple[int, ...], scale: float, window: int | None
) -> torch.Tensor:
    """Flash attention over sequences of any length (Dao 2023, arXiv:2307.08691), as torch ships it."""
    from torch.nn.attention.varlen import varlen_attn

    ends = _ends_on(lengths, q.device)
    longest = max(lengths)
    found: Any = varlen_attn(
        q.contiguous(), k.contiguous(), v.contiguous(), ends, ends, longest, longest,
        scale=scale, window_size=(-1 if window is None else window - 1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    out: torch.Tensor = found
    return out


@cache
def _last_ends() -> dict[str, Any]:
    return {}


def _ends_on(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The borders of the documents as int32 on the device; every layer of a step asks for the same."""
    import torch

    last = _last_ends()
    if last.get("of") != (lengths, device):
        last["of"] = (lengths, device)
        last["ends"] = torch.tensor(_starts(lengths), dtype=torch.int32, device=device)
    found: torch.Tensor = last["ends"]
    return found


def _one(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """One document, [L, heads, head size], by torch's own attention, or written out where that can't do it."""
    import torch
    from torch.nn import functional

    q, k, v = (states.transpose(0, 1)[None] for states in (q, k, v))
    length = q.shape[2]
    windowed = window is not None and window < length
    if softcap is None:
        mask = _allowed(length, window, q.device) if windowed else None
        out = functional.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=not windowed, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out[0].transpose(0, 1)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.tanh(torch.matmul(q, k.transpose(2, 3)) * (scale / softcap)) * softcap
    scores = scores.masked_fill(~_allowed(length, window if windowed else None, q.device), float("-inf"))
    weights = functional.dropout(torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype), dropout)
    return torch.matmul(weights, v)[0].transpose(0, 1)


def _allowed(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool [L, L]: which keys (columns) a query (row) may see."""
    import torch

    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


@cache
def _kernel() -> Any:
    """The CPU's attention as an autograd function; made once, because importing torch takes seconds."""
    import torch

    class Attention(torch.autograd.Function):
        """Scores, softmax, weighted sum as batched products: the batch is documents of like length times key heads, and
        the queries of a key head's group lie below one another. Everything is one node, so that autograd has little to
        keep."""

        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, lengths: tuple[int, ...], scale: float) -> Any:
            heads, out, kept = k.shape[1], torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype), []
            for width, places in _alike(lengths):
                qs, ks, vs = (_blocks(states, heads, width, places) for states in (q, k, v))
                weights = _weights(qs, ks, width, scale)
                _put(out, torch.bmm(weights, vs), heads, width, places)
                kept += [qs, ks, vs, weights if width <= KEEP_WEIGHTS and any(ctx.needs_input_grad) else None]
            ctx.save_for_backward(*kept)
            ctx.lengths, ctx.scale, ctx.shapes = lengths, scale, (q.shape, k.shape, v.shape)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            kept = ctx.saved_tensors
            heads, grads = ctx.shapes[1][1], [torch.empty(shape, dtype=grad.dtype) for shape in ctx.shapes]
            for at, (width, places) in enumerate(_alike(ctx.lengths)):
                qs, ks, vs, weights = kept[4 * at : 4 * at + 4]
                if weights is None:
                    weights = _weights(qs, ks, width, ctx.scale)
                dout = _blocks(grad, heads, width, places)
                dscores = torch._softmax_backward_data(torch.bmm(dout, vs.transpose(1, 2)), weights, -1, weights.dtype)
                dscores.mul_(ctx.scale)
                dqs, dks = torch.bmm(dscores, ks), torch.bmm(dscores.transpose(1, 2), qs)
                for place, found in zip(grads, (dqs, dks, torch.bmm(weights.transpose(1, 2), dout)), strict=True):
                    _put(place, found, heads, width, places)
            return *grads, None, None

    return Attention


@lru_cache(maxsize=4)
def _alike(lengths: tuple[int, ...]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Where documents begin and end, together with those of the same rounded length."""
    found: dict[int, list[tuple[int, int]]] = {}
    for start, stop in pairwise(_starts(lengths)):
        found.setdefault(rounded(stop - start, WIDTHS), []).append((start, stop))
    return list(found.items())


def _blocks(states: torch.Tensor, heads: int, width: int, places: list[tuple[int, int]]) -> torch.Tensor:
    """Documents from [T, its heads, size] as [documents * key heads, group * width, size], zeros behind each.

    Causal attention lets no query see the zeros, and no gradient comes from them.
    """
    _, of, size = states.shape
    found = states.new_zeros(len(places), heads, of // heads, width, size)
    for block, (start, stop) in zip(found, places, strict=True):
        block[:, :, : stop - start] = states[start:stop].view(-1, heads, of // heads, size).permute(1, 2, 0, 3)
    return found.view(len(places) * heads, -1, size)


def _put(place: torch.Tensor, found: torch.Tensor, heads: int, width: int, places: list[tuple[int, int]]) -> None:
    """Write what `_blocks` would take from it into [T, its heads, size]."""
    _, of, size = place.shape
    blocks = found.view(len(places), heads, of // heads, width, size)
    for block, (start, stop) in zip(blocks, places, strict=True):
        place[start:stop].view(-1, heads, of // heads, size).copy_(block[:, :, : stop - start].permute(2, 0, 1, 3))


def _weights(qs: torch.Tensor, ks: torch.Tensor, width: int, scale: float) -> torch.Tensor:
    """Attention weights, [documents * key heads, group * width, width]."""
    import torch

    scores = torch.bmm(qs, ks.transpose(1, 2)).view(len(qs), -1, width, width)
    scores.mul_(scale).add_(_causal(scores.dtype)[:width, :width])
    return torch.softmax(scores, -1).view(len(qs), -1, width)


@cache
def _causal(dtype: torch.dtype) -> torch.Tensor:
    """0 where a query may look and -inf elsewhere, for the longest document of the kernel."""
    import torch

    return torch.full((OWN_KERNEL, OWN_KERNEL), float("-inf"), dtype=dtype).triu_(1)
