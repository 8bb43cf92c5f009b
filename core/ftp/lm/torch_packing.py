"""Rows in one batch without padding: each row a document of its own that sees no other.

The rows of a batch lie one after the other in a sequence; positions begin anew with every row and attention is causal
within a row. What several rows begin with may be there once (`pack_once`): a token then sees those before it on the
path of its row. The model's own attention modules call `attend_along_paths` through transformers' attention
interface, so every family that uses it works, with its own rotary embedding, grouped heads and norms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from ftp.lm.prefixes import depths_of, forest_of
from ftp.lm.torch_attention import SIZES, rounded
from ftp.lm.torch_prefix_attention import attend_along_paths

NAME = "ftp_documents"
"""What the attention is called in transformers' registry."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows as one sequence."""

    input_ids: torch.Tensor
    """int64 [1, T]"""
    position_ids: torch.Tensor
    """int64 [1, T], beginning at 0 with every row, and in a branch after the last one of what it continues."""
    lengths: tuple[int, ...]
    """Tokens of each row or node, and last of the filling where there is one; their sum is T."""
    parents: tuple[int, ...] | None = None
    """The node that each one continues, -1 for none; None where every row is a node of its own."""


def pack(rows: Sequence[Sequence[int] | torch.Tensor], device: Any = "cpu") -> Pack:
    """Concatenate rows of token ids, and append a row of zeros up to a rounded length.

    Rounded lengths keep the number of shapes small, for which kernels are compiled.
    """
    total = sum(map(len, rows))
    if filling := rounded(total, SIZES) - total:
        rows = [*rows, [0] * filling]
    ids = torch.cat([torch.as_tensor(row, dtype=torch.int64) for row in rows])
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    return Pack(ids[None].to(device), positions[None].to(device), tuple(len(row) for row in rows))


def pack_once(rows: Sequence[Sequence[int]], device: Any = "cpu") -> tuple[Pack, list[torch.Tensor]]:
    """Pack rows so that tokens which several of them begin with are there once.

    Returns:
        The pack, and for each row the positions of its tokens in the pack, int64 [its length].
    """
    forest = forest_of(rows)
    starts = [0, *accumulate(forest.lengths)]
    shares = any(parent >= 0 for parent in forest.parents) or len(forest.lengths) < len(rows)
    if not shares:
        starts = [0, *accumulate(map(len, rows))]
        places = [torch.arange(start, stop) for start, stop in pairwise(starts)]
        return pack(rows, device), places
    places = [
        torch.cat([torch.arange(starts[node], starts[node + 1]) for node in path]) if path else torch.arange(0)
        for path in forest.paths
    ]
    packed = pack(forest.tokens, device)
    parents = (*forest.parents, *(-1,) * (len(packed.lengths) - len(forest.lengths)))
    depths = depths_of(packed.lengths, parents)
    offsets = torch.repeat_interleave(torch.tensor(depths), torch.tensor(packed.lengths)).to(device)
    return Pack(packed.input_ids, packed.position_ids + offsets, packed.lengths, parents), places


def why_not(model: Any, longest: int = 0) -> str | None:
    """Return the reason why the rows of a batch can't be packed for this model; None when they can.

    Args:
        longest: tokens of the longest row.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config.get_text_config()
    if not getattr(causal, "_supports_attention_backend", False):
        return f"{type(causal).__name__} does not take its attention from transformers' interface"
    if getattr(config, "is_encoder_decoder", False):
        return f"{type(causal).__name__} has an encoder"
    if any(kind not in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or ()):
        return f"{type(causal).__name__} has layers that are no plain attention"
    limit = same_positions_up_to(model)
    if limit is not None and longest > limit:
        return (
            f"the rotary embedding of {type(causal).__name__} is another one from {limit + 1} tokens on, for all rows "
            f"of a batch, and the longest row has {longest}"
        )
    return None


def same_positions_up_to(model: Any) -> int | None:
    """Return the tokens up to which a row's rotary embedding does not depend on the longest row beside it.

    Two kinds of scaling choose the frequencies by the longest row of a batch: `dynamic` (NTK, as in
    `transformers.modeling_rope_utils`) and `longrope` (Ding et al. 2024, arXiv:2402.13753). None for all others.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config.get_text_config()
    found = getattr(config, "rope_parameters", None) or {}
    limits = []
    for rope in (found, *(value for value in found.values() if isinstance(value, dict))):
        if "dynamic" in rope.get("rope_type", ""):
            limits.append(int(config.max_position_embeddings))
        elif rope.get("rope_type") == "longrope":
            limits.append(int(rope["original_max_position_embeddings"]))
    return min(limits, default=None)


@contextlib.contextmanager
def documents(model: Any) -> Iterator[None]:
    """Let the model attend within documents inside the block; its forward then needs `lengths=pack.lengths`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend_along_paths)
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
    """Return the decoder's last hidden states, [T, hidden]. Call it inside `documents(model)`."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    out = causal.get_decoder()(
        input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False,
        lengths=packed.lengths, parents=packed.parents,
    )  # fmt: skip
    states: torch.Tensor = out.last_hidden_state[0]
    return states


def padded(rows: Sequence[list[int]], value: int, side: str) -> tuple[Any, Any]:
    """Pad rows of token ids to the longest of them.

    Args:
        value: the token to pad with.
        side: `left` or `right`.

    Returns:
        The ids, int64 [rows, longest], and the attention mask: the same shape and type, 1 for tokens and 0 for padding.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[at, place] = torch.tensor(row)
        mask[at, place] = 1
    return ids, mask
