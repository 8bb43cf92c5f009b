"""Files and plain values: digests, JSON without NaN, and paths as people read them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """The value with NaN and infinities as the strings `nan`, `inf`, `-inf`: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def digest(value: Any) -> str:
    """SHA-256 of a plain value, by its sorted JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shown(place: Path | str, home: Path) -> str:
    """A file relative to `home` where it lies below it, else whole; a hub name as it is."""
    if isinstance(place, str):
        return place
    return str(place.relative_to(home)) if place.is_relative_to(home) else str(place)


def user_cache(name: str) -> Path:
    """Return the directory of one of this user's caches: below `FTP_CACHE` where that is set, else where the system
    keeps caches."""
    import platformdirs

    return Path(os.environ.get("FTP_CACHE") or platformdirs.user_cache_dir("ftp")) / name


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's kind where it has no message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
