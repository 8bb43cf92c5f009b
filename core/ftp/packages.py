"""Installed packages: whether one is there, whose it is, what to give to pip for one that is not; files as modules."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ftp.errors import PluginError

DISTRIBUTIONS = {
    "PIL": "pillow",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "stdnum": "python-stdnum",
    "yaml": "pyyaml",
}
"""Packages whose import name differs from the name of their distribution."""


def normalised(distribution: str) -> str:
    """Return the name of a distribution as pip would spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, by its import name; import nothing of it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # the package above it is not there; a module without a spec is
        return package in sys.modules


def import_file(file: Path, name: str) -> ModuleType:
    """Run a Python file as a module of this name.

    It is registered under its name so that pydantic can read the docstrings of its fields, and pickle and dataclasses
    can find its classes.

    Raises:
        PluginError: Python knows no module by the suffix of the file.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file: its name must end in .py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def distributions_of(package: str) -> Sequence[str]:
    """Return the installed distributions that a package is from, by its import name."""
    return _distributions(tuple(sys.path)).get(package, ())


@functools.lru_cache(maxsize=2)
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return the distributions of every package on the path. Their files are read, which takes 0.3 s."""
    return importlib.metadata.packages_distributions()


def how_to_get(package: str, distribution: str) -> str:
    """Return what to give to `pip install` for a package: the extra of a distribution, or the package itself.

    Of several extras, the smallest: an extra that contains others (`all`) is written out in full.
    """
    wanted = DISTRIBUTIONS.get(package, package)
    extras = extras_of(distribution)
    bring = [extra for extra, names in extras.items() if normalised(wanted) in names]
    return f"{distribution}[{min(bring, key=lambda extra: len(extras[extra]))}]" if bring else wanted


def extras_of(distribution: str) -> dict[str, set[str]]:
    """Return the names of the distributions that each extra of an installed distribution brings."""
    extras: dict[str, set[str]] = {}
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        if name and extra:
            extras.setdefault(extra.group(1), set()).add(normalised(name.group()))
    return extras
