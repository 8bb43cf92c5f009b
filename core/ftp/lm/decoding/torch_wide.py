"""Products of bfloat16 weights on a CPU, through float32 copies of them that are kept while answers are generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn import functional

from ftp.lm.torch_bfloat16 import Bfloat16Linear

ROWS = 32
"""From so many rows on, a float32 product beats one in bfloat16 on such a CPU; with fewer, reading the weights counts.
(Measured on a Xeon with avx512_bf16: 1.0 times as fast with 32 rows, 1.6 with 64, 1.8 with 512.)"""
MOST_BYTES = 4 * 2**30
"""The largest copies that are made, in all."""


class WideLinear:
    """Forward of a bfloat16 linear layer: the same products and sums in float32, rounded to bfloat16 at the end.

    The product of two bfloat16 numbers is exact in float32, and kernels for bfloat16 add up in float32 too: only the
    order of the sums differs.
    """

    def __init__(self, module: torch.nn.Linear) -> None:
        self.module, self.weight = module, module.weight.float()
        self.bias = None if module.bias is None else module.bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.bfloat16 or x.numel() < ROWS * x.shape[-1]:
            return functional.linear(x, self.module.weight, self.module.bias)
        return functional.linear(x.float(), self.weight, self.bias).to(x.dtype)


class KeptLinear:
    """Forward of a `Bfloat16Linear` that unpacks its weight once, and not for every token."""

    def __init__(self, module: Bfloat16Linear) -> None:
        self.weight, self.bias = module.unpacked(), module.bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


def wide_forwards(model: Any, most_rows: int) -> dict[Any, Callable[..., Any]]:
    """Return what replaces the forward of linear layers with bfloat16 weights on a CPU, where that is faster.

    Args:
        most_rows: rows that are decoded at once.
    """
    held = [
        module for module in model.modules() if isinstance(module, Bfloat16Linear) and "forward" not in vars(module)
    ]
    if held and _bytes(held) <= psutil.virtual_memory().available / 2:
        return {module: KeptLinear(module) for module in held}
    layers = [module for module in model.modules() if _is_narrow(module)]
    if not layers or most_rows < ROWS or has_matrix_units() or _bytes(layers) > MOST_BYTES:
        return {}
    return {module: WideLinear(module) for module in layers}


def _bytes(layers: Sequence[torch.nn.Linear]) -> int:
    """Return what copies of their weights take; a weight that several layers share is counted once."""
    return 4 * sum(weight.numel() for weight in {id(layer.weight): layer.weight for layer in layers}.values())


def _is_narrow(module: Any) -> bool:
    return (
        type(module) is torch.nn.Linear
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
        and "forward" not in vars(module)
    )


@cache
def has_matrix_units() -> bool:
    """Return whether the CPU has units for products of bfloat16 matrices (AMX); True where that can't be told."""
    file = Path("/proc/cpuinfo")
    return not file.is_file() or "amx_bf16" in file.read_text(encoding="utf-8", errors="replace")
