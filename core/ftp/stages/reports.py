"""Reports of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftp.components import Reporter
from ftp.plugins import Plugins
from ftp.recipe.slots import Slots
from ftp.runs.directory import RunDirectory
from ftp.runs.finished import finished


def write_reports(directory: RunDirectory, plugins: Plugins, reporters: Sequence[Reporter] = ()) -> list[Path]:
    """Write reports of a finished run with these reporters, or with every installed one that needs no options."""
    run = finished(directory)
    return [reporter.report(run) for reporter in reporters or default_reporters(plugins)]


def default_reporters(plugins: Plugins) -> list[Reporter]:
    """Return every installed reporter that needs no options."""
    return Slots(plugins).without_options(Reporter)
