"""The README.md of an export: the run's model card, with what the export is and how near it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ftp
from ftp_plugins.reporters.export_tables import parity_lines
from ftp_plugins.reporters.model_card import card_of


def write_card(
    job: ftp.ExportJob, record: Mapping[str, Any], library: str, language: str, lines: Sequence[str]
) -> None:
    """Write the model card of an export.

    Args:
        record: the export's, as in export.json.
        library: the hub's name of the library that loads it.
        language: of the lines.
        lines: code or commands that load it; PATH stands for its directory.
    """
    status = "" if record["proven"] else " **Unproven**: it is further from the model of the run than allowed."
    if not record["evaluated"]:
        status += " **Not the model that was evaluated**: the figures below are another model's until this one is."
    section = [
        f"## This export: {record['format']}",
        "",
        f"Written by FTP from run {record['run']}.{status}",
        "",
        *parity_lines(record),
        "",
        "Load it; PATH stands for this directory:",
        "",
        f"```{language}",
        *lines,
        "```",
    ]
    text = card_of(job.run, library=library, section="\n".join(section))
    (job.directory / "README.md").write_text(text, encoding="utf-8")
