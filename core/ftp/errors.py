"""One family of errors: what the user did, where, and what to do about it.

Every `FtpError` is shown as plain text with exit code 2. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FtpError(Exception):
    """Something the user can mend. The message says where it is and what to do."""


class Problems(FtpError):  # noqa: N818 (it is a list of them)
    """Several problems found in one go, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class RecipeError(Problems):
    """The recipe is wrong: one `file:line:column: path: what` for each problem."""


class DataError(Problems):
    """Rows, files or sources that can't be used, each named by file and line."""


class PluginError(FtpError):
    """A plugin that can't be loaded, or two that offer the same name."""


class ModelError(FtpError):
    """A model that can't be loaded or doesn't fit what was asked of it."""


class RunError(FtpError):
    """A run directory that is in use, or was started from other inputs."""


class Interrupted(FtpError):  # noqa: N818 (a signal is no error)
    """Training was ended by a signal, with a checkpoint saved to go on from."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"interrupted by signal {number}; a checkpoint is saved")


class RowError(ValueError):
    """Raised by a formatter for a row that it can't use. `column` is where, `what` is why."""

    def __init__(self, column: str, what: str) -> None:
        self.column = column
        self.what = what
        super().__init__(f"{column}: {what}" if column else what)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known word, or the list of them when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
