"""The device to compute on, and the data type that it computes with best."""

from __future__ import annotations

import torch


def pick_device() -> str:
    """Return the first of `cuda`, `mps` and `cpu` that this machine has."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def multiplies_bfloat16(device: str) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware; emulated, they are slower than float32.

    Args:
        device: as torch names it, with or without a number: `cpu`, `cuda:1`, `mps`.
    """
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def pick_dtype(device: str) -> str:
    """Return `bfloat16` where a device multiplies it in hardware, else `float32`."""
    return "bfloat16" if multiplies_bfloat16(device) else "float32"
