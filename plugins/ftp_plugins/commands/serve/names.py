"""What the models of a server are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ftp.errors import RunError


def split_name(argument: str) -> tuple[str, Path]:
    """Return name and path of an argument `NAME=RUN`; the name is empty where it is only a path."""
    if Path(argument).exists():  # a path may have an equals sign
        return "", Path(argument)
    name, equals, path = argument.partition("=")
    return (name, Path(path)) if equals and name else ("", Path(argument))


def unique_names(runs: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a name for each run: the given one, else the recipe's, with the run's id where several have the same.

    Args:
        runs: for each the given name, which may be empty, the name of the recipe and the id of the run.

    Raises:
        RunError: a name is given twice.
    """
    known = Counter(given or recipe for given, recipe, _ in runs)
    names = [given or (recipe if known[recipe] == 1 else f"{recipe}/{id}") for given, recipe, id in runs]
    for name, times in Counter(names).items():
        if times > 1:
            raise RunError(f"two models would be called '{name}'; give them names: NAME=RUN")
    return names
