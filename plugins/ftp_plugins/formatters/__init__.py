"""Formatters: they turn rows of a source into examples."""

from __future__ import annotations

import ftp
from ftp_plugins.formatters.auto import Auto
from ftp_plugins.formatters.formats import FORMATS


@ftp.hookimpl
def ftp_formatters() -> dict[str, type[ftp.Formatter]]:
    return {**FORMATS, "auto": Auto}
