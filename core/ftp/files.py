"""Files and plain values: digests, JSON without NaN, atomic writes, and lists formatted for people."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

UNUSED_DAYS = 30
"""Days after which unused entries are removed from a cache."""


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


def shown(place: Path | str, home: Path) -> str:
    """Return a path relative to `home` if it lies below it, else the whole path; a hub name unchanged."""
    if isinstance(place, str):
        return place
    return str(place.relative_to(home)) if place.is_relative_to(home) else str(place)


def user_cache(name: str) -> Path:
    """Return the directory of one of this user's caches: below `FTP_CACHE` if that is set, else the system's choice."""
    import platformdirs

    return Path(os.environ.get("FTP_CACHE") or platformdirs.user_cache_dir("ftp")) / name


@contextlib.contextmanager
def new_file(file: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield the path to write a file to; it replaces `file` when the block succeeds and is deleted when it fails.

    Args:
        shared: whether another process may be writing the same file, as in a cache.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}.part" if shared else f"{file.name}.part")
    try:
        yield aside
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; it replaces `target` when the block succeeds."""
    aside = target.with_name(f"{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all, and sync it to disk before returning."""
    with new_file(file) as aside, aside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def append_line(file: Path, line: str) -> None:
    """Append a line, on a line of its own even if a killed process left an unfinished one."""
    with file.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END) and stream.seek(-1, os.SEEK_END) is not None and stream.read(1) != b"\n":
            stream.write(b"\n")
        stream.write(line.encode() + b"\n")


def forget_unused(cache: Path, pattern: str = "*") -> None:
    """Delete entries of a cache that have not been used for UNUSED_DAYS, and half-written files after a day."""
    for entry in cache.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another run may be at it
            days = 1 if entry.suffix == ".part" else UNUSED_DAYS
            if time.time() - entry.stat().st_mtime > days * 86400:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


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
