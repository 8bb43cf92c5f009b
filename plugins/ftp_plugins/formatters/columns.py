"""Read a column of a row, with errors that name the column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ftp
from ftp.errors import did_you_mean


def required(row: Mapping[str, Any], column: str) -> str:
    """Return the text of a column that every row must have."""
    if column not in row:
        raise ftp.RowError(f"'{column}'", f"missing column{did_you_mean(column, map(str, row))}")
    value = row[column]
    if not isinstance(value, str):
        raise ftp.RowError(f"'{column}'", f"text is needed, this is {_name(value)}")
    if not value.strip():
        raise ftp.RowError(f"'{column}'", "empty")
    return value


def optional(row: Mapping[str, Any], column: str | None, usual: str) -> str:
    """Return the text of a column that may be null or empty, and may be missing if it has its usual name.

    A column named in the recipe must exist: if it is misspelt, it would otherwise be ignored in every row without
    notice.
    """
    if column is None:
        return ""
    if column != usual and column not in row:
        hint = did_you_mean(column, map(str, row))
        raise ftp.RowError(f"'{column}'", f'missing column (write null or "" where a row has none){hint}')
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ftp.RowError(f"'{column}'", f"text is needed, this is {_name(value)}")
    return value


def filled(row: Mapping[str, Any], parts: Sequence[tuple[str, str | None]]) -> str:
    """Return the text of a template with the values of its columns in it, without blank lines at its ends.

    Args:
        parts: texts, each with the column whose value follows it, or None.
    """
    written, any_value = [], False
    for text, column in parts:
        value = "" if column is None else _value(row, column)
        any_value = any_value or bool(value.strip())
        written += [text, value]
    if not any_value:
        raise ftp.RowError(", ".join(f"'{column}'" for _, column in parts if column is not None), "empty")
    return "".join(written).strip()


def _value(row: Mapping[str, Any], column: str) -> str:
    """Return the value of a column as text; a number is written as it is."""
    if column not in row:
        raise ftp.RowError(f"'{column}'", f"missing column{did_you_mean(column, map(str, row))}")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ftp.RowError(f"'{column}'", f"text or a number is needed, this is {_name(value)}")
    return str(value)


def listed(row: Mapping[str, Any], column: str) -> list[Any]:
    """Return the list of a column that every row must have."""
    if column not in row:
        raise ftp.RowError(f"'{column}'", f"missing column{did_you_mean(column, map(str, row))}")
    value = row[column]
    if not isinstance(value, list):
        raise ftp.RowError(f"'{column}'", f"a list is needed, this is {_name(value)}")
    if not value:
        raise ftp.RowError(f"'{column}'", "empty")
    return value


def _name(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
