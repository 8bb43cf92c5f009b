"""General instructions that evaluators bring as an eval set."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import ftp
from ftp.data.files import files_of, rows_of
from ftp.errors import RowError
from ftp.files import first_few
from ftp.types import Kind
from ftp_plugins.formatters.auto import Auto

INSTRUCTIONS = "general-instructions"
"""The eval set; evaluators that read the same file share it."""
LOOKED_AT = 200
"""Rows from which the format is detected."""


def format_problems(instructions: str | None, format: ftp.Formatter) -> list[str]:
    """Return what is wrong with the option `format` beside `instructions`."""
    unread = instructions is None and not isinstance(format, Auto)
    return ["format: is for the rows of `instructions:`; remove it"] if unread else []


def read_instructions(file: str, format: ftp.Formatter, takes: Collection[Kind]) -> Iterator[ftp.Example]:
    """Return the rows of a data file as examples.

    Args:
        format: the formatter, or one that chooses it by the data.
        takes: the acceptable kinds of example.

    Raises:
        DataError: the file, or rows of it, can't be used; each row is named by its line.
    """
    rows = itertools.chain.from_iterable(rows_of(found) for found in files_of(file))
    first = list(itertools.islice(rows, LOOKED_AT))
    if first and all(row.values is None for row in first):
        raise ftp.DataError([f"{file}:{row.line}: {row.problem}" for row in first[:20]])
    try:
        formatter, _ = format.settle([row.values for row in first if row.values is not None])
    except ftp.DataError as error:
        raise ftp.DataError([f"{file}: {problem}" for problem in error.problems]) from None
    problems = []
    for row in itertools.chain(first, rows):
        try:
            if row.values is None:
                raise RowError("", row.problem)
            example = formatter.format(row.values)
            if example.kind not in takes or not example.reference.strip():
                lacks = "" if example.reference.strip() else " without an answer"
                raise RowError("", f"a {example.kind}{lacks}; instructions with answers are needed")
        except RowError as error:
            problems.append(f"{file}:{row.line}: {error}")
            continue
        yield ftp.Example(example.messages, example.text, source=file, tools=example.tools)
    if problems:
        raise ftp.DataError(first_few(problems, 20, "more bad rows"))
