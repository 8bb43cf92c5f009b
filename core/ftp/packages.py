"""Installed packages: whether one is there, whose it is, and what to give to pip for one that is not."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence

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


def distributions_of(package: str) -> Sequence[str]:
    """Return the installed distributions that a package is from, by its import name."""
    return _distributions(tuple(sys.path)).get(package, ())


@functools.lru_cache(maxsize=2)
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return the distributions of every package on the path. Their files are read, which takes 0.3 s."""
    return importlib.metadata.packages_distributions()


def how_to_get(package: str, distribution: str) -> str:
    """Return what to give to `pip install` for a package: the extra of a distribution, or the package itself."""
    wanted = DISTRIBUTIONS.get(package, package)
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return package
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        if name and extra and normalised(name.group()) == normalised(wanted):
            return f"{distribution}[{extra.group(1)}]"
    return wanted
