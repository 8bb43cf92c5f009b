"""Turn pydantic's errors into FTP's: `file:line:column: path: what; did you mean …`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ftp.errors import did_you_mean
from ftp.mistakes.hints import blocks_in, tags_of, where_it_belongs
from ftp.options import PLAIN_NAME
from ftp.plugins import Plugins
from ftp.yaml_source import Document, Path_, shown_value

_MUST_BE = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "string_too_short": "non-empty text",
    "too_short": "a list with at least one entry",
    "list_type": "a list (lines that begin with `- `)",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
}


def explain(error: ValidationError, model: type[BaseModel], document: Document, plugins: Plugins) -> Iterator[str]:
    """Yield pydantic's errors as FTP's: `file:line:column: path: what; did you mean …`."""
    found: dict[Path_, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        path, _ = _resolved(detail["loc"], model, document.data)
        if detail["type"] == "missing":
            path = (*path, detail["loc"][-1])
        elif detail["type"].startswith("union_tag"):
            path = (*path, "use")
        found.setdefault(path, []).append(detail)
    for path, details in found.items():
        if any(len(other) > len(path) and other[: len(path)] == path for other in found):
            continue  # where several types are allowed, the one that was meant tells more
        yield document.described(path, _what(path, details, model, document, plugins))


def _what(
    path: Path_, details: Sequence[ErrorDetails], model: type[BaseModel], document: Document, plugins: Plugins
) -> str:
    """Describe what is wrong with one value; there are several details when it may be of several types."""
    detail = details[0]
    kind, given = detail["type"], detail["input"]
    _, models = _resolved(detail["loc"][:-1], model, None)
    broken = "".join(f" (plugin {p.name} is not in use: {p.error})" for p in plugins.plugins if p.error)
    if kind == "extra_forbidden":
        return f"unknown key{where_it_belongs(str(path[-1]), models, model, document.data)}"
    if path[-1:] == ("use",):
        if kind.startswith("union_tag"):
            (_, models), given = _resolved(detail["loc"], model, None), given.get("use")
        tags = sorted({tag for of in models for tag in tags_of(of)})
        if kind in ("missing", "union_tag_not_found"):
            return f"is missing; one of {', '.join(tags)}" if tags else "is missing"
        return f"nothing called {shown_value(given)} is installed{did_you_mean(str(given), tags)}{broken}"
    if kind == "missing":
        return "is missing"
    if kind == "nothing_installed":
        return f"{detail['msg']}{broken}"
    wanted = list(dict.fromkeys(filter(None, map(_must_be, details))))
    if not wanted:
        said = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"{said}; got {shown_value(given)}"
    words = [w.strip("' ") for d in details for w in re.split(r",| or ", str(d.get("ctx", {}).get("expected", "")))]
    near = did_you_mean(given, words) if isinstance(given, str) else ""
    return f"must be {' or '.join(wanted)}, not {shown_value(given)}{near if 'did you mean' in near else ''}"


def _must_be(detail: ErrorDetails) -> str | None:
    """Return what a value must be; None where pydantic or a plugin has a complete sentence of its own."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        if context["pattern"] == PLAIN_NAME:
            if len(str(detail["input"])) > 100:
                return "at most 100 characters"
            return "letters, digits and . _ - with a letter or digit first"
        return f"text that matches {context['pattern']}"
    if kind in _MUST_BE:
        return _MUST_BE[kind]
    start = "Input should be "
    return detail["msg"].removeprefix(start) if detail["msg"].startswith(start) else None


def _resolved(loc: Sequence[str | int], model: type[BaseModel], data: Any) -> tuple[Path_, set[type[BaseModel]]]:
    """Return pydantic's `loc` without the tags of unions, and the models that the value at its end could be of."""
    path: list[str | int] = []
    models: set[type[BaseModel]] = {model}
    for part in loc:
        tagged = {of for of in models if part in tags_of(of)} if len(models) > 1 else set()
        fields = {of for of in models if isinstance(part, str) and part in of.model_fields}
        if tagged:
            models = tagged
            continue
        if fields:
            models = {inner for of in fields for inner in blocks_in(of.model_fields[str(part)].annotation)}
        if part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data)):
            data = data[part]
            path.append(part)
    return tuple(path), models
