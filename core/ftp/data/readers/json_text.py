"""JSON Lines, and JSON files that hold one list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ftp.data.readers.rows import ReadOptions, Row, line_separator, twin
from ftp.errors import DataError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\r\n]*")


def json_lines(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read one object a line."""
    # Split on \n alone: str.splitlines would also cut at U+2028 and at form feeds inside strings.
    for number, raw in enumerate(stream, 1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            line = raw.decode("utf-8").strip(" \t\r\n")
        except UnicodeDecodeError as error:
            column = len(raw[: error.start].decode("utf-8")) + 1
            yield Row(number, None, f"not UTF-8: byte 0x{raw[error.start]:02x} at column {column}")
            continue
        if not line:
            continue
        separator = line_separator(line)
        if separator:
            yield Row(number, None, separator)
            continue
        try:
            values, end = _decoder.raw_decode(line)
        except (ValueError, RecursionError) as error:
            yield Row(number, None, f"broken JSON: {_why(error)}")
            continue
        if line[end:]:
            yield Row(number, None, f"broken JSON: something after the {_name(values)}, at column {end + 1}")
        else:
            yield Row(number, *_object(values, line))


def json_list(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read a list of objects; a row's number is that of its element, for a list may stand in one line."""
    raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError([f"{file}:{line}: not UTF-8: byte 0x{raw[error.start]:02x}"]) from None
    position, line, element = _skip(text, 0), 1, 0
    if text[position : position + 1] != "[":
        hint = "; one object a line is JSON Lines: call the file .jsonl" if text[position : position + 1] == "{" else ""
        raise DataError([f"{file}:1: a .json file holds one list of objects{hint}"])
    line += text.count("\n", 0, position)
    start, position = position, _skip(text, position + 1)
    after_comma = False
    while text[position : position + 1] != "]" or after_comma:
        line, start, element = line + text.count("\n", start, position), position, element + 1
        try:
            values, position = _decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            # Where an element ends is unknown from here on, so the rest can't be read.
            raise DataError([f"{file}:{line}: broken JSON: {_why(error)}"]) from None
        yield Row(element, *_object(values, text[start:position]), text_line=line)
        position = _skip(text, position)
        after_comma = text[position : position + 1] == ","
        if after_comma:
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", start, position)
            raise DataError([f"{file}:{line}: broken JSON: a comma or the list's end is missing"])
    position = _skip(text, position + 1)
    if text[position:]:
        raise DataError([f"{file}:{text.count(chr(10), 0, position) + 1}: broken JSON: something after the list"])


def _skip(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    assert match is not None, "no blank at all fits too"
    return match.end()


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"the key '{twin([key for key, _ in pairs])}' is given twice")
    return values


def _not_json(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_not_json)


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number of more than 4300 digits" if "int_max_str_digits" in str(error) else str(error)


def _object(values: Any, text: str) -> tuple[dict[str, Any] | None, str]:
    """Return the values of a row, or None and what is wrong with them."""
    if not isinstance(values, dict):
        name = _name(values)
        return None, f"an object is needed, this is {'a ' if name != 'null' else ''}{name}"
    if _SURROGATE.search(text):
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return None, f"half a character: \\u{ord(error.object[error.start]):04x} without its other half"
    return values, ""


def _name(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")
