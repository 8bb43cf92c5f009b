"""YAML with positions: a document, and the line and column of each of its values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftp.errors import RecipeError
from ftp.files import first_line

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `1e-4` is a number, `010` is ten, and `no`, `12:30` and dates are strings."""


def _scalar(read: Callable[[str], Any]) -> Any:
    def construct(loader: _Loader, node: yaml.Node) -> Any:
        text = str(node.value)
        try:
            return read(text)
        except ValueError:
            what = f"{shown_value(text)} is not a valid {node.tag.rsplit(':', 1)[-1]}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None

    return construct


def _int(text: str) -> int:
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        _float,
    ),
}
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    None: yaml.SafeLoader.construct_undefined,
    "tag:yaml.org,2002:str": yaml.SafeLoader.construct_scalar,
}
for _name, (_pattern, _first, _read) in _SCALARS.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _name == "null" else [])])
    _Loader.add_constructor(_tag, _scalar(_read))

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
MOST_VALUES = 100_000
"""More values than any recipe has; aliases of aliases can expand to billions."""

DEEPEST = 50
"""Blocks within blocks; deeper ones would exhaust the stack of what reads them later."""


@dataclass
class Document:
    """A parsed recipe, or the value of a `--set`, with the position of each value."""

    origin: str
    """The file, or the flag."""
    data: Any
    places: dict[Path_, str]
    problems: list[str]
    is_file: bool = True

    def at(self, mark: Any) -> str:
        return f"{self.origin}:{mark.line + 1}:{mark.column + 1}" if self.is_file and mark else self.origin

    def place(self, path: Path_) -> str:
        """Return the position of a path, or of the innermost enclosing block."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, self.origin)

    def described(self, path: Path_, what: str) -> str:
        """Return a problem of a value with its position and its path: `file:line:column: path: what`."""
        return f"{self.place(path)}: {dotted(path)}: {what}"


def parse(text: str, origin: str, root: Path_ = (), *, is_file: bool = True) -> Document:
    document = Document(origin, None, {}, [], is_file)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                document.data = _construct(loader, node, root, document, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = document.at(error.problem_mark or error.context_mark)
        raise RecipeError([f"{where}: not valid YAML: {error.problem or error.context}"]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = yaml.Mark("", 0, before.count("\n"), len(before) - before.rfind("\n") - 1, None, 0)
        what = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise RecipeError([f"{document.at(mark)}: {what}"]) from None
    except RecursionError:
        raise RecipeError([f"{origin}: nested too deeply"]) from None
    except (ValueError, OverflowError) as error:  # the scanner takes "\\U00110000" for a character
        raise RecipeError([f"{origin}: not valid YAML: {first_line(error)}"]) from None
    return document


def parse_file(file: Path) -> Document:
    """Parse a file.

    Raises:
        RecipeError: it can't be read, or is not UTF-8 or no YAML.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        where = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        what = f"not UTF-8: byte 0x{error.object[error.start]:02x}; save it as UTF-8"
        raise RecipeError([f"{where}: {what}"]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RecipeError([f"{file}: {getattr(error, 'strerror', None) or error}"]) from None
    return parse(text, str(file))


def _construct(loader: _Loader, node: yaml.Node, path: Path_, document: Document, above: tuple[int, ...]) -> Any:
    here = document.at(node.start_mark)
    if len(path) > DEEPEST:
        raise RecipeError([f"{document.origin}: nested too deeply"])
    document.places[path] = here
    if id(node) in above:
        raise RecipeError([f"{here}: {dotted(path)}: an alias that refers to itself"])
    if len(document.places) > MOST_VALUES:
        raise RecipeError([f"{here}: {dotted(path)}: more than {MOST_VALUES} values; aliases expand too far"])
    above = (*above, id(node))
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
        loader.construct_undefined(node)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = document.at(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                document.problems.append(f"{at}: {dotted(path) or 'recipe'}: a key must be a word")
                continue
            key = _text(key_node.value, at, path, document)
            if key in mapping:
                document.problems.append(f"{at}: {dotted((*path, key))}: given twice; keep one")
            mapping[key] = _construct(loader, value_node, (*path, key), document, above)
            document.places[*path, key] = at
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), document, above) for index, item in enumerate(node.value)]
    value = loader.construct_object(node)
    return _text(value, here, path, document) if isinstance(value, str) else value


def _text(value: str, here: str, path: Path_, document: Document) -> str:
    """Join surrogate pairs, as JSON writes them, in a text; half a pair is a problem."""
    whole = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    halves = [character for character in whole if "\ud800" <= character <= "\udfff"]
    if halves:
        document.problems.append(f"{here}: {dotted(path)}: \\u{ord(halves[0]):04x} alone is half a character")
    return whole.encode("utf-8", "replace").decode()


def override(document: Document, setting: str) -> None:
    """Apply one `--set path=value`."""
    flag = f"--set {setting}"
    path_text, equals, value_text = setting.partition("=")
    if not equals or not all(path_text.split(".")):
        raise RecipeError([f"{flag}: write it as path=value, for example train.epochs=1"])
    path: Path_ = ()
    target = document.data
    parts = path_text.split(".")
    if len(parts) > DEEPEST:
        raise RecipeError([f"{flag}: nested too deeply"])
    for part in parts:
        last = len(path) + 1 == len(parts)
        key: str | int
        if isinstance(target, dict):
            key = part
            if key not in target and not last:
                target[key] = {}
                document.places[*path, key] = flag
        elif isinstance(target, list):
            if not (part.isascii() and part.isdecimal() and int(part) < len(target)):
                count = f"{len(target)} entr{'y' if len(target) == 1 else 'ies'}"
                raise RecipeError([f"{flag}: {dotted(path)} is a list of {count}, counted from 0; it has no '{part}'"])
            key = int(part)
        else:
            raise RecipeError([f"{flag}: {dotted(path)} is not a block, so it has no '{part}'"])
        path = (*path, key)
        if not last:
            target = target[key]
    value = parse(value_text, flag, path, is_file=False)
    target[path[-1]] = value.data
    document.places = {at: place for at, place in document.places.items() if at[: len(path)] != path}
    document.places |= {path: flag, **value.places}
    document.problems += value.problems


def dotted(path: Iterable[str | int]) -> str:
    """Return a path as people write it: `("data", "train", 0)` becomes `data.train.0`."""
    return ".".join(str(part) for part in path)


def shown_value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
