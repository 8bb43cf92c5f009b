"""What every reader yields, and what several of them check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

BATCH = 1000
"""Rows that are read together from files of columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source, or why there is none at this place."""

    line: int
    """The line it starts on. In JSON lists the number of the element, in Parquet and Arrow files and on the hub that of
    the row. From 1."""
    values: Mapping[str, Any] | None
    problem: str = ""
    text_line: int | None = None
    """Where `line` counts elements: the line of the file that the element starts on."""

    def told(self, problem: str) -> str:
        """Return what is wrong with this row, with the line of the file where its number is another one."""
        return problem if self.text_line is None else f"{problem} (line {self.text_line} of the file)"


SampleBy = Literal["document", "paragraph", "line"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files are read, where the file itself doesn't say. None: found out from the file."""

    delimiter: str | None = None
    """What stands between the cells of a CSV file."""
    encoding: str | None = None
    """Of CSV files and of text files, by Python's name."""
    sheet: str | None = None
    """Of a workbook; None: the first."""
    sample_by: SampleBy | None = None
    """What becomes a row of a text file; None: the whole file."""


def twin(names: Sequence[str]) -> str | None:
    """Return a name that is given more than once, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def line_separator(line: str) -> str:
    """Return what is wrong with a text in which other tools would see the end of a line, or nothing."""
    for character in ("\u2028", "\u2029"):
        if character in line:
            return (
                f"a raw U+{ord(character):04X} at column {line.index(character) + 1}: many tools end the line there; "
                f"write it as \\u{ord(character):04x} or as \\n"
            )
    return ""
