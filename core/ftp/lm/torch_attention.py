"""Attention within documents that lie one after the other in a sequence, as transformers' attention interface."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

OWN_KERNEL = 512
"""Up to this length, three batched products beat torch's attention on a CPU (two to four times, including backward)."""
SIZES, WIDTHS = 32, 8
"""Number of tensor sizes between a power of two and the next one: of packs, and of documents in the attention."""


def rounded(size: int, sizes: int) -> int:
    """Round a size up to a multiple of 8, to one of `sizes` values between powers of two.

    oneDNN compiles code for every new shape and keeps it, megabytes a step, which also fragments the heap: where
    every batch had a length of its own, memory tripled within fifty steps.
    """
    step = max(8, (1 << max(size - 1, 1).bit_length() - 1) // sizes)
    return -(-size // step) * step


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
    """Attend causally within each document of a packed sequence, as transformers' attention interface calls it.

    On CUDA with half precision by flash attention (Dao 2023, arXiv:2307.08691), on a CPU by `DocumentAttention` where
    documents are short, else by torch's own attention, document by document.

    Args:
        query: [1, heads, T, head size]; `key` and `value` may have fewer heads (grouped-query attention).
        lengths: tokens of each document; they add up to T.
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
    window = sliding_window if sliding_window is not None and sliding_window < max(lengths) else None
    # [T, heads, head size], in one type: rotary embeddings of float32 widen bfloat16 queries and keys.
    q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    if dropout == 0 and softcap is None:
        half = q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] == v.shape[-1] <= 256
        if q.is_cuda and half:
            return flash_attend(q, k, v, lengths, lengths, scale, window)[None], None
        if window is None and max(lengths) <= OWN_KERNEL and not q.is_cuda:
            attended: torch.Tensor = DocumentAttention.apply(q, k, v, lengths, scale)
            return attended[None], None
    starts = _starts(lengths)
    parts = [attend_one(q[a:b], k[a:b], v[a:b], scale, dropout, window, softcap) for a, b in pairwise(starts)]
    return torch.cat(parts)[None], None


def _starts(lengths: tuple[int, ...]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def flash_attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: tuple[int, ...],
    keys: tuple[int, ...],
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Run flash attention over sequences of any length (Dao 2023, arXiv:2307.08691), as shipped with torch.

    Args:
        lengths: queries of each document.
        keys: keys of each document, as many or more; the last query sees all of them.
    """
    from torch.nn.attention.varlen import varlen_attn

    found: Any = varlen_attn(
        q.contiguous(), k.contiguous(), v.contiguous(), _borders(lengths, q.device), _borders(keys, q.device),
        max(lengths), max(keys),
        scale=scale, window_size=(-1 if window is None else window - 1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    out: torch.Tensor = found
    return out


@lru_cache(maxsize=2)
def _borders(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return the borders of the documents as int32 on the device; every layer of a step asks for the same."""
    return torch.tensor(_starts(lengths), dtype=torch.int32, device=device)


def attend_one(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attend within one document with torch's own attention, or written out with a softcap.

    Args:
        q: [L, heads, head size] of the document's last L tokens.
        k, v: [its tokens, heads, head size].
    """
    q, k, v = (states.transpose(0, 1)[None] for states in (q, k, v))
    length, keys = q.shape[2], k.shape[2]
    window = window if window is not None and window < keys else None
    if softcap is None:
        mask = _allowed(length, keys, window, q.device) if window is not None or keys > length else None
        out = functional.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out[0].transpose(0, 1)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.tanh(torch.matmul(q, k.transpose(2, 3)) * (scale / softcap)) * softcap
    scores = scores.masked_fill(~_allowed(length, keys, window, q.device), float("-inf"))
    weights = functional.dropout(torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype), dropout)
    return torch.matmul(weights, v)[0].transpose(0, 1)


def _allowed(length: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Return the mask, bool [length, keys], of the keys (columns) that each query (row) may see, its own included."""
    seen = torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)
    return seen if window is None else seen.triu(keys - length + 1 - window)


class DocumentAttention(torch.autograd.Function):
    """Attention on a CPU as one autograd node, which keeps queries, keys and values for the backward pass.

    Scores, softmax and weighted sum are batched products: the batch is documents of like length times key heads, and
    the queries of a key head's group lie below one another.
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, lengths: tuple[int, ...], scale: float) -> Any:
        heads, out, kept = k.shape[1], torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype), []
        for width, places in _by_length(lengths):
            qs, ks, vs = (blocks_of(states, heads, width, places) for states in (q, k, v))
            write_blocks(out, torch.bmm(_weights(qs, ks, width, scale), vs), heads, width, places)
            kept += [qs, ks, vs]
        ctx.save_for_backward(*kept)
        ctx.lengths, ctx.scale, ctx.shapes = lengths, scale, (q.shape, k.shape, v.shape)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        kept = ctx.saved_tensors
        heads, grads = ctx.shapes[1][1], [torch.empty(shape, dtype=grad.dtype) for shape in ctx.shapes]
        for at, (width, places) in enumerate(_by_length(ctx.lengths)):
            qs, ks, vs = kept[3 * at : 3 * at + 3]
            weights = _weights(qs, ks, width, ctx.scale)
            dout = blocks_of(grad, heads, width, places)
            dscores = torch._softmax_backward_data(torch.bmm(dout, vs.transpose(1, 2)), weights, -1, weights.dtype)
            dscores.mul_(ctx.scale)
            dqs, dks = torch.bmm(dscores, ks), torch.bmm(dscores.transpose(1, 2), qs)
            for place, found in zip(grads, (dqs, dks, torch.bmm(weights.transpose(1, 2), dout)), strict=True):
                write_blocks(place, found, heads, width, places)
        return *grads, None, None


@lru_cache(maxsize=4)
def _by_length(lengths: tuple[int, ...]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return where documents begin and end, grouped by rounded length."""
    found: dict[int, list[tuple[int, int]]] = {}
    for start, stop in pairwise(_starts(lengths)):
        found.setdefault(rounded(stop - start, WIDTHS), []).append((start, stop))
    return list(found.items())


def blocks_of(states: torch.Tensor, heads: int, width: int, places: list[tuple[int, int]]) -> torch.Tensor:
    """Copy documents from [T, its heads, size] to [documents * key heads, group * width, size], padded with zeros.

    Causal attention lets no query see the zeros, and no gradient comes from them.
    """
    _, of, size = states.shape
    found = states.new_zeros(len(places), heads, of // heads, width, size)
    for block, (start, stop) in zip(found, places, strict=True):
        block[:, :, : stop - start] = states[start:stop].view(-1, heads, of // heads, size).permute(1, 2, 0, 3)
    return found.view(len(places) * heads, -1, size)


def write_blocks(
    place: torch.Tensor, found: torch.Tensor, heads: int, width: int, places: list[tuple[int, int]]
) -> None:
    """Write the inverse of `blocks_of` into [T, its heads, size]."""
    _, of, size = place.shape
    blocks = found.view(len(places), heads, of // heads, width, size)
    for block, (start, stop) in zip(blocks, places, strict=True):
        place[start:stop].view(-1, heads, of // heads, size).copy_(block[:, :, : stop - start].permute(2, 0, 1, 3))


def _weights(qs: torch.Tensor, ks: torch.Tensor, width: int, scale: float) -> torch.Tensor:
    """Compute the attention weights, [documents * key heads, group * width, width]."""
    scores = torch.bmm(qs, ks.transpose(1, 2)).view(len(qs), -1, width, width)
    scores.mul_(scale).add_(_causal(scores.dtype)[:width, :width])
    return torch.softmax(scores, -1).view(len(qs), -1, width)


@cache
def _causal(dtype: torch.dtype) -> torch.Tensor:
    """Return a mask with 0 where a query may attend and -inf elsewhere, for the longest document of the kernel."""
    return torch.full((OWN_KERNEL, OWN_KERNEL), float("-inf"), dtype=dtype).triu_(1)
