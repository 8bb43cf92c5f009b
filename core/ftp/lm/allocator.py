"""glibc's allocator, set up for tensors on the CPU.

By default glibc takes every block over 32 MiB from the system and gives it back when it is freed, so that each step of
training faults the same pages in again: a third of the time of a CPU step. Kept blocks are used again instead.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = 1, -1, -2, -3
NO_CACHE = "glibc.malloc.tcache_count=0"
PRIMITIVES = "256"
"""Compiled kernels that oneDNN keeps: a step's are under 200. Its own 1,024 hold hundreds of megabytes, between what
steps leave free."""


def restart_without_cache() -> None:
    """Replace a process of the command line by one in which glibc keeps no cache of small blocks, unless it is one.

    torch asks for aligned blocks, and glibc cuts a few bytes off the ends of each. In the cache, these keep a block
    that is freed from being joined with its neighbours, and by itself it is too small for the next request of its size:
    in every layer the heap grew by what was freed in the one before, and a step took a third more memory. The setting
    is read when a process starts. No effect without glibc, or in a program that is not `ftp`.
    """
    before, (script, *arguments) = os.environ.get("GLIBC_TUNABLES", ""), sys.orig_argv[-len(sys.argv) :]
    ours = Path(script).name == "ftp" and arguments == sys.argv[1:]  # and not called by another program
    if "tcache_count" in before or not ours or not _is_glibc():
        return
    os.environ["GLIBC_TUNABLES"] = f"{before}:{NO_CACHE}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_large_blocks() -> bool:
    """Set glibc to keep freed memory for the next step, and oneDNN to cache fewer kernels.

    Returns:
        Whether glibc took the settings; False where there is no glibc.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES)  # read when the first kernel is made
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None:
        return False
    mallopt(M_MXFAST, 0)  # the other place where small blocks keep large ones apart
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30) and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))


def give_back() -> None:
    """Return free memory to the system between stages that need blocks of other sizes. No effect without glibc."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Growth:
    """Returns free memory to the system when this process has grown to `MOST` times what it held after a step.

    Batches of many sizes fragment the heap, and blocks that fit no gap extend it: training all weights went from 4.4 to
    10.5 GB within 130 steps. Memory that was returned has to be requested again, which takes about the time of a step,
    so it isn't done at every step.
    """

    MOST = 1.5
    USUAL, WITHIN = 1.25, 50
    """How many times as large it has usually become after so many steps."""

    def __init__(self) -> None:
        self.first: int | None = None

    def step_ended(self) -> None:
        """Check the memory of this process after a step, and return free memory when it has grown too far."""
        held = _resident_pages()
        if self.first is None:
            self.first = held
        elif held > self.MOST * self.first:
            give_back()
            self.first = None


def _resident_pages() -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])


def _is_glibc() -> bool:
    try:
        return sys.platform == "linux" and bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):  # another C library
        return False


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
