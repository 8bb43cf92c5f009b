"""What llama.cpp says while it works: hundreds of lines, of which the errors are worth showing."""

from __future__ import annotations

import functools
from typing import Any

ERROR = 4
"""GGML_LOG_LEVEL_ERROR of ggml.h. llama-cpp-python 0.3.36 counts the levels otherwise: it shows warnings as errors."""


@functools.cache
def llama_errors() -> list[str]:
    """Silence llama.cpp in this process, and return the list to which its errors are added from then on."""
    import llama_cpp

    errors: list[str] = []

    def keep(level: int, text: bytes, _: Any) -> None:
        if level == ERROR:
            errors.append(text.decode(errors="replace").strip())

    callback = llama_cpp.llama_log_callback(keep)
    llama_cpp.llama_log_set(callback, None)
    _callbacks.append(callback)
    return errors


_callbacks: list[Any] = []
"""Kept, since llama.cpp calls it as long as the process runs."""
