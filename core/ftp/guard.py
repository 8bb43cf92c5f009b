"""Calls of a component's methods: what goes wrong in one names the plugin, the component and the method."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ftp.components import Component, kind_of
from ftp.errors import ComponentError, FtpError
from ftp.packages import distributions_of

P = ParamSpec("P")
T = TypeVar("T")


def call(returns: Any, method: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a bound method of a component and return what it returns.

    Args:
        returns: the type that it has to return, or a union of types, as `isinstance` takes it.

    Raises:
        FtpError: the component raised it.
        ComponentError: it raised anything else, or returned something of another type.
    """
    component: Component = method.__self__  # type: ignore[attr-defined]
    name = method.__name__
    with blaming(component, name):
        found = method(*arguments, **named)
    if not isinstance(found, returns):
        wanted = getattr(returns, "__name__", str(returns)).replace("ftp.types.", "ftp.")
        raise ComponentError(f"{described(component)}: {name} returned {type(found).__name__}, not {wanted}")
    return found


@contextlib.contextmanager
def blaming(component: Component, method: str) -> Iterator[None]:
    """Turn what is raised in the block, and is no `FtpError`, into an error that names this method of a component."""
    try:
        yield
    except FtpError:
        raise
    except Exception as error:  # a plugin's own code may raise anything
        lines = str(error).strip().splitlines()
        what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise ComponentError(f"{described(component)}: {method} failed: {what}{_place(error, component)}") from error


def described(component: Component) -> str:
    """Return a component's kind, its name in the recipe, and its plugin: `evaluator 'brevity' of ftp-brevity`."""
    return f"{kind_of(component).removesuffix('s')} '{component.used_as}' of {_plugin_of(type(component))}"


def _plugin_of(cls: type[Component]) -> str:
    """Return the distribution that a class is from, or its file where it is from none."""
    module = cls.__module__
    distributions = distributions_of(module.split(".")[0])
    file = getattr(sys.modules.get(module), "__file__", None)
    return distributions[0] if distributions else str(file or module)


def _place(error: BaseException, component: Component) -> str:
    """Return the last place in the component's package that an error came through, as ` (file:line)`."""
    file = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    if file is None:
        return ""
    package = Path(file).parent if "." in type(component).__module__ else Path(file)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
