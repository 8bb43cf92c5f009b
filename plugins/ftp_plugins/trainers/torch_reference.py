"""Log-probabilities of answers under the model as it is before training, cached by content."""

from __future__ import annotations

import contextlib
import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftp.cache import forget_unused, user_cache
from ftp.files import digest, new_file
from ftp.lm.tokens import TokenRows
from ftp.lm.torch_losses import token_losses
from ftp.types import LoadedModel

LAYOUT = 1
"""Part of the key; increased when the stored format or the computation changes."""


def reference_log_probs(loaded: LoadedModel, rows: TokenRows, batch_tokens: int, how: str) -> Any:
    """Return the log-probability of each row's trained tokens, float64 [rows], of the model before its first step.

    Where a fresh LoRA adapter still adds nothing, it is switched off, and the base model's figures serve every seed.

    Args:
        how: what else determines how the model computes, such as the types that it multiplies in.
    """
    base = adds_nothing(loaded.model)
    key = _key(loaded, rows, how, base)
    file = user_cache("reference") / f"{key}.npy" if key else None
    stored = _stored(file, len(rows))
    if stored is not None:
        return stored
    with loaded.model.disable_adapter() if base else contextlib.nullcontext():
        found = -np.array([loss.nll for loss in token_losses(loaded, rows, batch_tokens=batch_tokens)])
    if file is not None:
        forget_unused(file.parent)
        with new_file(file, shared=True) as aside, aside.open("wb") as stream:
            np.save(stream, found)
    return found


def adds_nothing(model: Any) -> bool:
    """Return whether the weights that train are those of a LoRA adapter with B = 0, as it is made."""
    training = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    second = [weight for name, weight in training.items() if ".lora_B." in name]
    alone = all(".lora_A." in name or ".lora_B." in name for name in training)
    return alone and bool(second) and not any(bool(weight.any()) for weight in second)


def _key(loaded: LoadedModel, rows: TokenRows, how: str, base: bool) -> str | None:
    """Return the SHA-256 of all that determines the figures; None for a model without a fingerprint."""
    if len(loaded.fingerprint.removeprefix("commit ")) < 40:
        return None
    model = loaded.model
    found = hashlib.sha256(
        digest(
            [
                *(LAYOUT, version("torch"), version("transformers"), loaded.fingerprint, base, how),
                *(str(model.dtype), model.device.type, getattr(model.config, "_attn_implementation", "")),
                *(loaded.request.quantization, loaded.new_tokens),
            ]
        ).encode()
    )
    if not base:
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                found.update(name.encode())
                found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for batch in rows.table.select(["input_ids", "trained"]).combine_chunks().to_batches():
        found.update(batch.serialize())
    return found.hexdigest()


def _stored(file: Path | None, rows: int) -> Any:
    """Return what is stored in a file of the cache, or None."""
    if file is None or not file.is_file():
        return None
    try:
        os.utime(file)
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # damaged, or taken out by another run
        return None
    return found if found.shape == (rows,) and found.dtype == np.float64 and np.isfinite(found).all() else None
