"""Bitwise reproducible training, where the same seed alone isn't enough."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from ftp.errors import ModelError


def fix_cublas() -> None:
    """Give cuBLAS buffers of a fixed size. Call it before the model is used, since cuBLAS reads the setting once."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Have torch use deterministic algorithms inside the block.

    Raises:
        ModelError: the model needs an operation that has none.
    """
    if not on:
        yield
        return
    fix_cublas()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = str(error).strip().splitlines()[0]
        raise ModelError(f"train.deterministic: {what} Set it to false, or train on another device") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
