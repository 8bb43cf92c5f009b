"""The model card."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import ftp
from ftp.rundir import RunDirectory
from ftp_plugins.reporters.html import figure, row


class ModelCard(ftp.Reporter):
    """README.md of the run and of its model directory: what it is, how it was made, what it scored, its limits."""

    requires: ClassVar[tuple[str, ...]] = ("jinja2",)

    def report(self, run: ftp.FinishedRun) -> Path:
        import jinja2

        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=plain)
        environment.filters["figure"] = figure
        template = environment.from_string((files("ftp_plugins.reporters") / "model_card.md.j2").read_text("utf-8"))
        text = template.render(
            run=run,
            rows=[row(evaluation, metric) for evaluation in run.evaluations for metric in evaluation.metrics],
        )
        (run.directory / "model" / "README.md").write_text(text, encoding="utf-8")
        return RunDirectory(run.directory).write_text("README.md", text)


def plain(value: object) -> object:
    """Text without anything that Markdown or HTML would act on."""
    if not isinstance(value, str):
        return value
    for character in "\\`*_[]#":
        value = value.replace(character, f"\\{character}")
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").split())
