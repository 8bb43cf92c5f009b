"""Copies of float32 weights in the data type used for products."""

from __future__ import annotations

import torch


class WeightCopies:
    """One copy for each weight, shared by all layers that use it, and renewed after `weights_changed`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.copies: dict[torch.Tensor, torch.Tensor] = {}  # tensors are hashed by identity
        self.stale: set[torch.Tensor] = set()

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight in the other type, as it is now."""
        copy = self.copies.get(weight)
        if copy is None:
            with torch.inference_mode(False):  # made in an evaluation, it could not be used for training afterwards
                copy = weight.detach().to(self.dtype)
            self.copies[weight] = copy
        elif weight in self.stale:
            copy.copy_(weight.detach())
        self.stale.discard(weight)
        return copy

    def weights_changed(self) -> None:
        """Record an optimizer step. Call it after each one: a fused step leaves the version of a tensor unchanged."""
        self.stale.update(self.copies)

    def clear(self) -> None:
        """Free the copies."""
        self.copies.clear()
        self.stale.clear()
