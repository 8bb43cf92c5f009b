"""Too little memory ends in a message."""

from __future__ import annotations

import errno
import os
import sys

from ftp.errors import FtpError

LEAST = 6 * 2**30
"""Bytes of address space that the libraries of a run map, a tiny model included, most of which they never touch."""
SIGNS = (
    *("failed to map segment from shared object", "cannot allocate memory", "can't allocate memory"),
    *("out of memory", "failed to launch worker thread", "can't start new thread"),
)
"""What libraries say when they get no memory, in errors of their own kinds."""


def check_address_space() -> None:
    """Refuse to begin where this process may not map what the libraries need.

    They don't fail there in good order: OpenBLAS tries again without end while it is imported, deaf to every signal.

    Raises:
        FtpError: the limit (`ulimit -v`) is too low.
    """
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST:
        raise FtpError(
            f"this process may use {limit / 2**30:.1f} GB of address space (`ulimit -v`), and a run maps "
            f"{LEAST >> 30} GB even for a tiny model, most of it never touched; raise the limit, or limit the memory "
            "that is used (a cgroup) in its place"
        )


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory to be had."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error).casefold()
    return any(sign in text for sign in (*SIGNS, os.strerror(errno.ENOMEM).casefold()))
