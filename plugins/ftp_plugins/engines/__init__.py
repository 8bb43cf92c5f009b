"""Engines: they answer prompts."""

from __future__ import annotations

import ftp
from ftp_plugins.engines.openai import OpenAI
from ftp_plugins.engines.transformers import Transformers


@ftp.hookimpl
def ftp_engines() -> dict[str, type[ftp.Engine]]:
    return {"transformers": Transformers, "openai": OpenAI}
