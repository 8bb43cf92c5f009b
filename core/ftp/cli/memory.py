"""Clear messages when memory runs out."""

from __future__ import annotations

import errno
import os
import sys

from ftp.errors import FtpError

LEAST = 6 * 2**30
"""Bytes of address space that the libraries of a run map, including a tiny model; most of it is never touched."""
SIGNS = (
    *("failed to map segment from shared object", "cannot allocate memory", "can't allocate memory"),
    *("out of memory", "failed to launch worker thread", "can't start new thread"),
)
"""What libraries say in their own exceptions when an allocation fails."""


def check_address_space() -> None:
    """Refuse to begin where this process may not map the address space that the libraries need.

    They don't fail cleanly: OpenBLAS retries forever during its import and ignores every signal.

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
    """Return whether an error means that memory has run out."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error).casefold()
    return any(sign in text for sign in (*SIGNS, os.strerror(errno.ENOMEM).casefold()))
