"""Exporters: the model of a run in the forms that other programs load."""

from __future__ import annotations

import ftp
from ftp_plugins.exporters.adapter import AdapterFiles
from ftp_plugins.exporters.gguf import GgufFile
from ftp_plugins.exporters.hub import Hub
from ftp_plugins.exporters.merged import Merged
from ftp_plugins.exporters.ollama import Ollama


@ftp.hookimpl
def ftp_exporters() -> dict[str, type[ftp.Exporter]]:
    return {"adapter": AdapterFiles, "merged": Merged, "gguf": GgufFile, "ollama": Ollama, "hub": Hub}
