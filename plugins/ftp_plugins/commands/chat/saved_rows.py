"""Conversations as rows of data files, in the format that a recipe reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ftp.components import Formatter
from ftp.data.files import files_of, rows_of
from ftp.errors import DataError, FtpError, RowError
from ftp.files import append_line
from ftp.recipe.model import Recipe, Source
from ftp.types import Example, Message
from ftp_plugins.formatters.chat import Messages

FIRST_ROWS = 100
"""Rows that a formatter looks at which chooses by the data."""


def save_row(file: Path, messages: Sequence[Message], recipe: Recipe | None) -> str:
    """Append a conversation to a JSON Lines file and return what was done, in words.

    A file that is a source of the recipe gets a row of that source's format, any other one a row of the format of the
    first training source; without a recipe it is `messages`.

    Raises:
        FtpError: the format can't hold this conversation, or the file can't be written.
    """
    if file.suffix != ".jsonl":
        raise FtpError(f"{file}: rows are written as JSON Lines; name a file that ends in .jsonl")
    formatter = _formatter(file, recipe)
    row = row_of(formatter, messages)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        append_line(file, json.dumps(row, ensure_ascii=False))
    except OSError as error:
        raise FtpError(f"{file}: can't be written: {error.strerror or error}") from None
    return f"Saved to {file} as a row of the format {formatter.used_as}."


def row_of(formatter: Formatter, messages: Sequence[Message]) -> Mapping[str, Any]:
    """Return the row that a formatter makes a conversation from.

    Raises:
        FtpError: it makes it from none.
    """
    row = formatter.row(Example(tuple(messages)))
    try:
        same = row is not None and formatter.format(row).messages == tuple(messages)
    except RowError:
        same = False
    if row is None or not same:
        raise FtpError(
            f"the format {formatter.used_as} of the recipe can't hold this conversation ({len(messages)} turns, "
            f"{', '.join(message.role for message in messages)}); /reset begins another"
        )
    return row


def _formatter(file: Path, recipe: Recipe | None) -> Formatter:
    if recipe is None:
        return Messages().named("messages")
    sources = [source for _, source in recipe.data.sources()]
    mine = [source for source in sources if source.path and Path(source.path).resolve() == file.resolve()]
    source = (mine or sources)[0]
    return _settled(source)


def _settled(source: Source) -> Formatter:
    """Return the formatter of a source; one that chooses by the data has chosen."""
    if not source.format.chooses_by_data() or not source.path:
        return source.format
    try:
        found = islice((row for file in files_of(source.path) for row in rows_of(file, source.reading)), FIRST_ROWS)
        return source.format.settle([row.values for row in found if row.values is not None])[0]
    except DataError as error:
        raise FtpError(f"the format of the rows can't be told without the recipe's data: {error}") from None
