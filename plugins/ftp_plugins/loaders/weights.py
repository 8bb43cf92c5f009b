"""Names from FTP 0.1, for plugins written against it. New plugins use `ftp.lm.hf_loader`."""

from __future__ import annotations

from typing import Any

from ftp.files import first_line
from ftp.lm.hf_loader import directory_fingerprint
from ftp.lm.hf_tokenizer import ChatTemplate, NewTokens, add_tokens, finish_tokenizer, load_tokenizer, read_template

__all__ = [
    "ChatTemplate",
    "NewTokens",
    "add_tokens",
    "directory_fingerprint",
    "finish_tokenizer",
    "first_line",
    "load_tokenizer",
    "read_template",
]


def __getattr__(name: str) -> Any:
    """Return `describe`, `load`, `grow`, `pick_device` or `pick_dtype`, whose modules import torch."""
    from ftp.lm import torch_devices, torch_weights

    if name in ("pick_device", "pick_dtype"):
        return getattr(torch_devices, name)
    if name in ("describe", "load"):
        return getattr(torch_weights, name)
    if name == "grow":
        return torch_weights.add_token_rows
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
