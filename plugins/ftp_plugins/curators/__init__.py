"""Curators: which rows are trained on."""

from __future__ import annotations

import ftp
from ftp_plugins.curators.mix import Mix


@ftp.hookimpl
def ftp_curators() -> dict[str, type[ftp.Curator]]:
    return {"mix": Mix}
