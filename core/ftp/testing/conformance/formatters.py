"""What FTP relies on in a formatter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftp.components import Formatter
from ftp.errors import RowError
from ftp.testing.conformance.common import attempt, fail, short, sources
from ftp.types import Example


def check_formatter(formatter: Formatter, samples: Sequence[Mapping[str, Any]]) -> None:
    """Check that good rows become examples and that every bad row is a RowError."""
    cls = type(formatter)
    for row in samples:
        example = attempt(cls, formatter.format, row)
        fault = _fault(example, formatter)
        if fault:
            fail(cls, f"format({short(row)}) {fault}.")
        if formatter.format(row) != example:
            fail(cls, f"format({short(row)}) makes a different example the second time.")
        written = attempt(cls, formatter.row, example)
        if written is not None and attempt(cls, formatter.format, written).messages != example.messages:
            fail(cls, f"row returned {short(written)}, and format makes another conversation of it.")
    columns = sorted(_column_names(formatter) | {str(key) for row in samples for key in row})
    wrong: tuple[Any, ...] = (None, [], 3)
    for value in wrong:
        rows = [{column: value} for column in columns] + [dict.fromkeys(columns, value)]
        for row in ({}, *rows):
            # A number may well be what a column holds; nothing and a list of nothing can't be an answer.
            _check_bad_row(formatter, row, may_work=value == 3 and bool(row))
    for sample in samples:
        for row in _spoiled(dict(sample)):
            _check_bad_row(formatter, row, may_work=True)


def _check_bad_row(formatter: Formatter, row: Mapping[str, Any], may_work: bool) -> None:
    cls, call = type(formatter), f"format({short(row)})"
    try:
        example = formatter.format(row)
    except RowError as error:
        if not str(error).strip():
            fail(cls, f"{call} raised an ftp.RowError without a message.")
        return
    except Exception as error:
        what = f"{call} raised {type(error).__name__} ({error}); a row that can't be used is an ftp.RowError."
        raise AssertionError(f"{cls.__name__}: {what}") from error
    if not may_work:
        fail(cls, f"{call} returned an example; a row that can't be used is an ftp.RowError.")
    if not isinstance(example, Example):
        fail(cls, f"{call} returned {type(example).__name__}, not an ftp.Example.")
    contents = [message.content for message in example.messages] or [example.text]
    if not all(isinstance(content, str) for content in contents):
        fail(cls, f"{call} put something that is not text into an example.")


def _fault(example: Any, formatter: Formatter) -> str | None:
    if not isinstance(example, Example):
        return f"returned {type(example).__name__}, not an ftp.Example"
    if example.kind != formatter.makes:
        return f"made a {example.kind} example, and the class says makes = '{formatter.makes}'"
    if example.messages and example.messages[-1].role != "assistant":
        return f"made a conversation that ends with the {example.messages[-1].role}'s turn, not the assistant's"
    calls = example.messages and example.messages[-1].tool_calls
    return None if example.reference.strip() or calls else "made an example with an empty answer"


def _column_names(formatter: Formatter) -> set[str]:
    """Collect possible column names for the formatter from its options and from the texts in its source."""
    texts = {value for value in formatter.model_dump().values() if isinstance(value, str) and value}
    for tree in sources(type(formatter)):
        texts |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {text for text in texts if re.fullmatch(r"\w[\w -]{0,40}", text)}


def _spoiled(value: Any) -> Iterator[Any]:
    """Yield every variant of a row with one value in it missing or wrong."""
    if isinstance(value, dict):
        for key in value:
            yield {other: item for other, item in value.items() if other != key}
            for worse in (None, 3, "", [], {}, *_spoiled(value[key])):
                yield {**value, key: worse}
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value[:index] + value[index + 1 :]
            for worse in (None, 3, "", [], {}, *_spoiled(value[index])):
                yield [*value[:index], worse, *value[index + 1 :]]
