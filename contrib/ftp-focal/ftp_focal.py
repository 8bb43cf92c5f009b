"""Supervised fine-tuning with the focal loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

import ftp
from ftp_plugins.trainers.sft import SFT


class Focal(SFT):
    """Supervised fine-tuning with the focal loss: tokens that the model predicts well already count less."""

    gamma: float = Field(default=2.0, ge=0)
    """A token that the model gives the probability p has (1 - p)^gamma times its loss; 0 is plain cross-entropy."""

    def token_loss(self) -> Callable[[Any, Any], Any]:
        import torch

        def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            missed = -torch.expm1(-nll)  # 1 - p, exact where p is near 1
            return missed.clamp(min=1e-12) ** self.gamma * nll  # a gamma below 1 has no slope at 0

        return focal


@ftp.hookimpl
def ftp_trainers() -> dict[str, type[ftp.Trainer]]:
    return {"focal": Focal}
