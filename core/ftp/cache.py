"""This user's caches: where they are, what has to go, and digests of large files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from ftp.files import digest, file_digest, new_file, read_plain_file

SMALL = 2**20
"""Bytes below which a file is read again rather than looked up."""
SETTLED_NS = 5 * 10**9
"""Nanoseconds after its last change from which on a file counts as settled."""
UNUSED_DAYS = 30
"""Days after which unused entries are removed from a cache."""


def user_cache(name: str) -> Path:
    """Return the directory of one of this user's caches: below `FTP_CACHE` if that is set, else the system's choice."""
    import platformdirs

    return Path(os.environ.get("FTP_CACHE") or platformdirs.user_cache_dir("ftp")) / name


def forget_unused(cache: Path, pattern: str = "*") -> None:
    """Delete entries of a cache that have not been used for UNUSED_DAYS, and half-written files after a day."""
    for entry in cache.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another run may be at it
            days = 1 if entry.suffix == ".part" else UNUSED_DAYS
            if time.time() - entry.stat().st_mtime > days * 86400:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


def kept_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, from this user's cache where nothing of the file has changed since it was read.

    What counts is path, inode, size and the times of its content and of its inode in nanoseconds; the last can't be
    set back. A file that was written in the last seconds is not kept: another write could leave the same times.
    """
    before = file.stat()
    mark = [before.st_dev, before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns]
    if before.st_size < SMALL:
        return file_digest(file)
    record = user_cache("digests") / f"{digest(str(file.resolve()))}.json"
    try:
        known = json.loads(read_plain_file(record, 4096))
        if known["mark"] == mark:
            os.utime(record)
            return str(known["sha256"])
    except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
        pass
    found = file_digest(file)
    if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS:
        with contextlib.suppress(OSError):  # a cache that can't be written is none
            forget_unused(record.parent)
            with new_file(record, shared=True) as aside:
                aside.write_text(json.dumps({"mark": mark, "sha256": found}), encoding="utf-8")
    return found
