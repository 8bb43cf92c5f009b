"""A LoRA layer in evaluation mode, as peft computes it and without its bookkeeping at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ftp_plugins.speed.torch_forwards import factors_of


class AnsweringLoRA:
    """Forward of a plain LoRA layer: y = base(x) + scale (x A^T) B^T, the second part in the type of A and B.

    Folding the adapter into the weights would be faster still, but in bfloat16 it rounds the adapter away in part: the
    answers would be those of another model than the one that was trained.
    """

    def __init__(self, module: Any) -> None:
        self.module, self.base = module, module.get_base_layer()
        self.low, self.high = factors_of(module)
        self.scale = module.scaling[module.active_adapters[0]]

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.module.disable_adapters:
            return self.base(x)
        y = self.base(x)
        delta = functional.linear(functional.linear(x.to(self.low.dtype), self.low), self.high)
        return torch.add(y, delta, alpha=self.scale).to(y.dtype)
