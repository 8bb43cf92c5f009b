"""One family of errors: what the user did, where, and what to do about it.

Every `FtpError` is shown as plain text with its exit code: 2, or 4 for an unproven export. Any other exception that
escapes is a bug in FTP.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FtpError(Exception):
    """An error that the user can fix. The message says where it is and what to do."""

    exit_code = 2


class Problems(FtpError):  # noqa: N818 (it is a list of them)
    """Several problems found together, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class RecipeError(Problems):
    """The recipe is wrong: one `file:line:column: path: what` for each problem."""


class DataError(Problems):
    """Rows, files or sources that can't be used, each named by file and line."""


class PluginError(FtpError):
    """A plugin that can't be loaded, or two that offer the same name."""


class ComponentError(FtpError):
    """A component whose method raised something unforeseen, or returned what it may not."""


class ModelError(FtpError):
    """A model that can't be loaded or doesn't fit the request."""


class RunError(FtpError):
    """A run directory that is in use, or was started with other inputs."""


class LaunchError(FtpError):
    """Processes of a run that can't be started, or have failed."""


class ProcessLost(FtpError):  # noqa: N818 (the state of a training, as Interrupted is)
    """Another process of the training has ended; the run can be started again."""

    exit_code = 75


class ProcessLate(ProcessLost):
    """Another process of the training doesn't answer; the run can be started again."""

    exit_code = 76


class ExportError(FtpError):
    """An export that is there and is not proven to be the model of the run."""

    exit_code = 4


class Interrupted(FtpError):  # noqa: N818 (a signal is no error)
    """Training was interrupted by a signal, after saving a checkpoint to resume from."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"interrupted by signal {number}; a checkpoint is saved")


class RowError(ValueError):
    """Raised by a formatter for a row that it can't use. `column` says where, `what` says why."""

    def __init__(self, column: str, what: str) -> None:
        self.column = column
        self.what = what
        super().__init__(f"{column}: {what}" if column else what)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest known word, or the list of known words when none is close."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
