"""Reporters: they write reports of a finished run."""

from __future__ import annotations

import ftp
from ftp_plugins.reporters.html import Html
from ftp_plugins.reporters.model_card import ModelCard


@ftp.hookimpl
def ftp_reporters() -> dict[str, type[ftp.Reporter]]:
    return {"html": Html, "model_card": ModelCard}
