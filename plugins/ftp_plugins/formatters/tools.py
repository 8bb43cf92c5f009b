"""Tool calls and tools of a row, checked and converted to the form that chat templates take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ftp
from ftp.errors import did_you_mean


def tools_of(row: Mapping[str, Any], column: str | None, usual: str = "tools") -> str:
    """Return the tools of a row as the JSON text of a list; empty when the row has none.

    The column holds a list or its JSON text. A tool is `{type: function, function: {name, …}}`; a bare `{name, …}` is
    converted to that form. A column named in the recipe must exist; one with its usual name may be missing.
    """
    if column is None:
        return ""
    if column != usual and column not in row:
        hint = did_you_mean(column, map(str, row))
        raise ftp.RowError(f"'{column}'", f'missing column (write null or "" where a row has none){hint}')
    value = row.get(column)
    if value is None or value == "":
        return ""
    found = _read(value, f"'{column}'")
    if not isinstance(found, list):
        raise ftp.RowError(f"'{column}'", "a list of tools is needed, or its JSON text")
    tools = []
    for number, tool in enumerate(found, 1):
        where = f"'{column}' tool {number}"
        if isinstance(tool, dict) and "function" not in tool and "name" in tool:
            tool = {"type": "function", "function": tool}
        rest = {key: item for key, item in _called(tool, where).items() if key != "type"}
        tools.append({"type": "function", **rest})
    return _written(tools, f"'{column}'") if tools else ""


def calls_of(value: object, where: str) -> list[dict[str, Any]]:
    """Return the calls of an assistant's turn: a list of `{id, type: function, function: {name, arguments}}`.

    `arguments` is an object or its JSON text, and is returned as an object; `id` and `type` may be missing.
    """
    if not isinstance(value, list):
        raise ftp.RowError(where, "'tool_calls' must be a list")
    calls = []
    for number, call in enumerate(value, 1):
        at = f"{where} call {number}"
        function = _called(call, at)["function"]
        if "arguments" not in function:
            raise ftp.RowError(at, f"'arguments' is missing{did_you_mean('arguments', map(str, function))}")
        arguments = _read(function["arguments"], f"{at} 'arguments'")
        if not isinstance(arguments, dict):
            raise ftp.RowError(at, "'arguments' must be an object, or the JSON text of one")
        id = text_of(call, "id", at)
        calls.append(
            {
                **({"id": id} if id else {}),
                "type": "function",
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return calls


def calls_in_text(value: object, where: str) -> list[dict[str, Any]]:
    """Return the calls of a ShareGPT turn: the JSON text of `{name, arguments}`, or of a list of them."""
    found = _read(value, where)
    return calls_of([{"function": call} for call in (found if isinstance(found, list) else [found])], where)


def written_calls(calls: list[dict[str, Any]], where: str) -> str:
    """Return the calls as JSON text."""
    return _written(calls, f"{where} 'tool_calls'") if calls else ""


def text_of(turn: Mapping[str, Any], key: str, where: str) -> str:
    """Return a text that a turn may lack."""
    value = turn.get(key)
    if value is not None and not isinstance(value, str):
        raise ftp.RowError(where, f"'{key}' must be text")
    return value or ""


def _called(value: object, where: str) -> dict[str, Any]:
    """Check a call or a tool: an object with a function that has a name."""
    if not isinstance(value, dict):
        raise ftp.RowError(where, "an object is needed")
    if value.get("type") not in (None, "function"):
        raise ftp.RowError(where, f"unknown type {value['type']!r}; known: function")
    function = value.get("function")
    if not isinstance(function, dict):
        raise ftp.RowError(where, "'function' must be an object with a 'name'")
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ftp.RowError(where, "'name' of the function is missing or not text")
    return value


def _read(value: object, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ftp.RowError(where, "not valid JSON") from None


def _written(value: object, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a character, written \ud83d in JSON text, can't be stored
    except (TypeError, ValueError, RecursionError):
        raise ftp.RowError(where, "holds a value that JSON can't (a date, bytes, NaN, half a character)") from None
    return text
