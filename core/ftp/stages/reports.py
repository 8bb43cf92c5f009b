"""Reports of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftp.components import Reporter
from ftp.errors import ComponentError
from ftp.guard import call, described
from ftp.plugins import Plugins
from ftp.results import finished
from ftp.runs.directory import RunDirectory
from ftp.slots import Slots
from ftp.types import FinishedRun


def write_reports(directory: RunDirectory, plugins: Plugins, reporters: Sequence[Reporter] = ()) -> list[Path]:
    """Write reports of a finished run with these reporters, or with every installed one that needs no options."""
    run = finished(directory)
    return [reported(reporter, run) for reporter in reporters or default_reporters(plugins)]


def reported(reporter: Reporter, run: FinishedRun) -> Path:
    """Write a report and return its path.

    Raises:
        ComponentError: the reporter failed, or returned no path of something that is there.
    """
    path = call(Path, reporter.report, run)
    if not path.exists():
        raise ComponentError(f"{described(reporter)}: report returned {path}, and nothing is there")
    return path


def default_reporters(plugins: Plugins) -> list[Reporter]:
    """Return every installed reporter that needs no options."""
    return Slots(plugins).without_options(Reporter)  # type: ignore[type-abstract]
