"""The memory that a run takes, and the error when there is not enough."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from ftp.errors import ModelError


def peak_memory_mb(device: Any) -> float:
    """Return the peak memory of this process, in 10^6 bytes: on the GPU if it trains on one, else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@contextlib.contextmanager
def too_much_memory(rows: int, longest: int) -> Iterator[None]:
    """Raise a ModelError with advice when a batch in this block doesn't fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        raise ModelError(
            f"a batch of {rows} rows of up to {longest} tokens doesn't fit into memory; lower train.batch_size and "
            "raise train.gradient_accumulation by as much (the result is the same), or set "
            "train.gradient_checkpointing: true, or lower train.max_length"
        ) from error
