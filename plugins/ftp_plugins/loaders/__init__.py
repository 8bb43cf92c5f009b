"""Loaders: they load a base model and its tokenizer into memory."""

from __future__ import annotations

import ftp
from ftp_plugins.loaders.gguf import Gguf
from ftp_plugins.loaders.huggingface import HuggingFace
from ftp_plugins.loaders.run import Run


@ftp.hookimpl
def ftp_loaders() -> dict[str, type[ftp.Loader]]:
    return {"huggingface": HuggingFace, "gguf": Gguf, "run": Run}
