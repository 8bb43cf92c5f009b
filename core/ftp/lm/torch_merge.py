"""Trained weights merged into the base model, and whole models on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ftp.errors import ModelError
from ftp.lm.torch_bfloat16 import hold_in_float32
from ftp.types import LoadedModel


def check_mergeable(base: LoadedModel) -> None:
    """Raise ModelError for a base model whose stored weights are quantised and stay so."""
    if base.request.already_quantized:
        raise ModelError(
            f"{base.name} is stored quantised ({base.request.already_quantized}), so nothing can be merged into it "
            "without rounding the training away; export the adapter"
        )


def bytes_of(model: Any, dtype: str) -> int:
    """Count the bytes of a model's weights in a type, those of 4-bit layers unpacked."""
    size: int = getattr(torch, dtype).itemsize
    return int(model.num_parameters()) * size


def merged(loaded: LoadedModel) -> Any:
    """Return the `transformers.PreTrainedModel` with the trained weights in it; the loaded model is used up.

    Raises:
        ModelError: the weights aren't numbers when they are merged, or a type of adapter can't be merged.
    """
    model = loaded.model
    hold_in_float32(model)  # in bfloat16 the sum would round the training away
    if hasattr(model, "merge_and_unload"):
        try:
            model = model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"the adapter can't be merged: {error}") from None
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        # Trained apart, they'd be made one again by whoever loads them.
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False
    return model


def save(model: Any, tokenizer: Any, directory: Path, dtype: str, shard_size: str) -> None:
    """Write a model and its tokenizer as Hugging Face files.

    Args:
        dtype: of the weights on disk, as torch names it.
        shard_size: as `save_pretrained` takes it: `5GB`.
    """
    model = model.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    model.save_pretrained(directory, max_shard_size=shard_size)
    tokenizer.save_pretrained(directory)
