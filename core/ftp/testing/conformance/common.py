"""What the checks of all kinds share: failures, and the source of a class."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ftp.components import KINDS, Component


def fail(cls: type, *problems: str) -> NoReturn:
    """Raise an AssertionError of one line for each problem."""
    raise AssertionError("\n".join(f"{cls.__name__}: {problem}" for problem in problems))


def kind_of(cls: object) -> str:
    """Return the kind of a component class, as `ftp.components.KINDS` names it."""
    if not inspect.isclass(cls):
        raise AssertionError(f"{cls!r} is not a class; give the component's class, not an instance.")
    kinds = [kind for kind, base in KINDS.items() if issubclass(cls, base)]
    if len(kinds) != 1:
        bases = ", ".join(f"ftp.{base.__name__}" for base in KINDS.values())
        fail(cls, f"a component is a subclass of exactly one of {bases}; this one of {len(kinds)}.")
    return kinds[0]


def own_classes(cls: type[Component]) -> list[type[Component]]:
    """Return the class and the classes it inherits from, without FTP's bases."""
    return [of for of in cls.__mro__ if issubclass(of, Component) and not of.__module__.startswith("ftp.components.")]


def source(module: str) -> ast.Module | None:
    """Parse the file of a module, without importing it; None where there is none."""
    file = getattr(sys.modules.get(module), "__file__", None) or _file_of(module)
    return ast.parse(Path(file).read_bytes()) if file and file.endswith(".py") else None


def _file_of(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # what is above it is no package; a module without a spec
        return None
    return spec.origin if spec else None


def sources(cls: type[Component]) -> list[ast.Module]:
    """Parse the modules in which the class and its parents are defined."""
    trees = [source(module) for module in dict.fromkeys(of.__module__ for of in own_classes(cls))]
    return [tree for tree in trees if tree is not None]


def pickled(component: Any) -> Any:
    """Return a component as another process receives it."""
    import pickle

    return pickle.loads(pickle.dumps(component))


def attempt(cls: type[Component], call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a method of a component; any exception is a failure of the component."""
    try:
        return call(*arguments, **named)
    except Exception as error:  # whatever it is, it is what the author has to read
        shown = ", ".join(map(short, arguments))
        what = f"{call.__name__}({shown}) raised {type(error).__name__}: {error}"
        raise AssertionError(f"{cls.__name__}: {what}") from error


def short(value: object) -> str:
    """Return the value as code, at most 100 characters of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def finite(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
