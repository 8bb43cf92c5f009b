"""What every contestant of the training benches does alike: read its task, time its steps, report one line of JSON.

Standard library only: it runs in the virtual environments of all peers.

A task is a JSON file: `model` (a directory of Hugging Face files), `rows` (lists `input_ids` and `labels`, those of
the warm-up steps first), `texts` (the same rows as instruction, input, output), `batch` (rows a step), `warmup` and
`steps` (how many, untimed and timed), `max_length` (tokens of a pack), `learning_rate`, `seed`, `device`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any


class Meter:
    """Records the end of each step. A window is timed from the end of one step to the end of another."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def step_ended(self) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def report(self, first: int, last: int, tokens: int, packages: list[str], **more: Any) -> None:
        """Print the result.

        Args:
            first: the step whose end begins the timed window, counted from 1.
            last: the step whose end closes it.
            tokens: trained on in between, padding not counted.
            packages: whose versions are reported.
        """
        print(
            json.dumps(
                {
                    "seconds": self.ends[last - 1] - self.ends[first - 1],
                    "tokens": tokens,
                    "losses": self.losses,
                    "peak_mb": peak_mb(),
                    "host_peak_mb": host_peak_mb(),
                    "versions": {name: importlib.metadata.version(name) for name in packages},
                    **more,
                }
            ),
            flush=True,
        )


def peak_mb() -> float:
    """Return the peak memory in MiB: allocated on the GPU if one was used, else resident (VmHWM)."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return host_peak_mb()


def host_peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def keep_large_blocks() -> None:
    """Set the same allocator option as FTP: glibc keeps freed blocks for the next step."""
    libc = ctypes.CDLL(None)
    assert libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    assert libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def read_task() -> tuple[dict[str, Any], list[str]]:
    """Read the task named by the first argument; return it and the other arguments."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2:]


def tokens_of(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["input_ids"]) for row in rows)
