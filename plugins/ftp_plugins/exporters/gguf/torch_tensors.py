"""A model's weights under llama.cpp's names and in its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import ftp
from ftp_plugins.exporters.gguf.architectures import Architecture
from ftp_plugins.exporters.gguf.rope import llama3_factors


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Any]
    """Make the float32 array."""


def name_map(config: Any, architecture: Architecture) -> Any:
    """Return gguf's map from transformers' names of weights to llama.cpp's."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    return gguf.get_tensor_name_map(arch, config.num_hidden_layers)


def tensors_of(model: Any, architecture: Architecture) -> list[GgufTensor]:
    """List the tensors of a `transformers.PreTrainedModel` as llama.cpp wants them; none is copied yet.

    Raises:
        ModelError: a weight has no name in llama.cpp's family.
    """
    config = model.config.get_text_config()
    names = name_map(config, architecture)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if not tied and architecture.name in ("gemma", "gemma2"):
        raise ftp.ModelError(
            f"can't be written as GGUF: llama.cpp gives {architecture.name} the embeddings as output head, and here "
            "the head was trained apart; export merged"
        )
    found = []
    for name, weight in parts_of(model):
        if name == "lm_head.weight" and tied:
            continue
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise ftp.ModelError(f"can't be written as GGUF: llama.cpp has no place for {name}; export merged")
        if name.endswith("shared_expert_gate.weight"):
            weight = weight[0]  # one row, which llama.cpp has as a vector
        change, _ = changes_of(name, config, architecture)
        found.append(GgufTensor(mapped, tuple(weight.shape), _maker(weight, change)))
    factors = llama3_factors(config)
    if factors is not None:
        found.append(GgufTensor("rope_freqs.weight", (len(factors),), _maker(torch.tensor(factors), _same)))
    return found


def parts_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights by name, views of the model's own; the experts' of a layer are three."""
    # Parameters alone: beside 4-bit weights there are scales and tables.
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        prefix, dot, last = name.rpartition(".experts.")
        if not dot:
            yield name, weight
        elif last == "gate_up_proj":
            gate, up = weight.chunk(2, dim=1)
            yield f"{prefix}.experts.gate_proj.weight", gate
            yield f"{prefix}.experts.up_proj.weight", up
        else:
            yield f"{prefix}.experts.{last}.weight", weight


Change = Callable[[torch.Tensor], torch.Tensor]


def changes_of(name: str, config: Any, architecture: Architecture) -> tuple[Change, Change]:
    """Return what turns a weight of transformers into llama.cpp's, and what turns it back."""
    if architecture.permutes and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        return lambda weight: permuted(weight, heads), lambda weight: unpermuted(weight, heads)
    if architecture.norm_offset and name.endswith("norm.weight"):
        offset = architecture.norm_offset
        return lambda weight: weight + offset, lambda weight: weight - offset
    return _same, _same


def _same(weight: torch.Tensor) -> torch.Tensor:
    return weight


def _maker(weight: torch.Tensor, change: Change) -> Callable[[], Any]:
    return lambda: change(weight.detach().float().cpu()).contiguous().numpy()


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of each head from halves to neighbouring pairs, as llama.cpp rotates them.

    Args:
        weight: [heads · size, …]; rows of a head are (x1 … xn, y1 … yn) and become (x1, y1, x2, y2, …).
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def unpermuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo `permuted`."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
