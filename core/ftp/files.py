"""Files and plain values: digests, JSON without NaN, atomic writes, and lists formatted for people."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags of `os.open` that refuse a link and don't wait for the other end of a pipe."""
ACTED_ON = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")


def finite(value: Any) -> Any:
    """Return the value with NaN and infinities as the strings `nan`, `inf` and `-inf`, which JSON can't represent."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def digest(value: Any) -> str:
    """Return the SHA-256 of a plain value, computed from its sorted JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_plain_file(file: Path, most: int) -> bytes:
    """Read a file whole: one that is a file and no link, and no longer than `most` bytes.

    Raises:
        OSError: it isn't there, can't be read, is something else or too long; `strerror` says which.
    """
    handle = os.open(file, os.O_RDONLY | NO_LINK)
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(file))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes and may have {most:,}", str(file))
        return stream.read(most)


def shown(place: Path | str, home: Path) -> str:
    """Return a path relative to `home` if it lies below it, else the whole path; a hub name unchanged."""
    if isinstance(place, str):
        return place
    return str(place.relative_to(home)) if place.is_relative_to(home) else str(place)


def user_data() -> Path:
    """Return the directory of this user's lasting data: `FTP_USER_DATA`, or where the system keeps it."""
    import platformdirs

    return Path(os.environ.get("FTP_USER_DATA") or platformdirs.user_data_dir("ftp"))


@contextlib.contextmanager
def new_file(file: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield the path to write a file to; it replaces `file` when the block succeeds and is deleted when it fails.

    Args:
        shared: whether another process may be writing the same file, as in a cache.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}.part" if shared else f"{file.name}.part")
    remove(aside)
    # Made here, so that whoever opens it by its name writes into this file and never through a link.
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666))
    try:
        yield aside
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; it replaces `target` when the block succeeds."""
    aside = target.with_name(f"{target.name}.part")
    remove(aside)
    aside.mkdir(parents=True)
    yield aside
    remove(target)
    aside.replace(target)


def remove(path: Path) -> None:
    """Remove a file, a directory with what is in it, or a link and not what it points to; what isn't there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all, and sync it to disk before returning."""
    with new_file(file) as aside, aside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def append_line(file: Path, line: str) -> None:
    """Append a line, on a line of its own even if a killed process left an unfinished one; follow no link.

    Raises:
        OSError: the path is that of a link, a pipe, a directory or a device, or it can't be written.
    """
    handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK, 0o666)
    with os.fdopen(handle, "a+b") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(file))
        if stream.seek(0, os.SEEK_END) and stream.seek(-1, os.SEEK_END) is not None and stream.read(1) != b"\n":
            stream.write(b"\n")
        stream.write(line.encode() + b"\n")


def clear_parts(directory: Path) -> None:
    """Delete what a killed process has left half written below a directory that nobody else writes to."""
    for entry in list(directory.rglob("*.part")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def first_few(lines: Sequence[str], most: int, more: str = "more") -> list[str]:
    """Return the first lines of a long list, followed by how many more there are: `… and 7 more`."""
    return [*lines[:most], *([f"… and {len(lines) - most} {more}"] if len(lines) > most else [])]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def without_controls(text: str) -> str:
    """Return a text with what a terminal would act on written as JSON escapes it: `\\u001b`.

    That is all control characters but line break and tab, half characters, and the marks that turn the direction of
    text around (UAX 9). JSON stays the same JSON.
    """
    return ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
