"""What a run needs of each machine that it runs on, and in what two machines differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftp.plugins import Plugins
from ftp.provenance.changes import differences
from ftp.provenance.fingerprints import BASE_MODEL, fingerprints
from ftp.recipe.model import Recipe


def needs(recipe: Recipe, plugins: Plugins, file: Path) -> dict[str, Any]:
    """Return what a run takes from this machine: recipe, bytes of data and base model, packages, plugins, Python.

    Args:
        file: the recipe's file. Paths below its directory are relative to it, since machines may keep it in different
            places.
    """
    lock = fingerprints(recipe, plugins)
    found = {name: lock.get(name, "") for name in ("recipe", "data", BASE_MODEL, "packages", "plugins")}
    found["python"] = lock["hardware"]["python"]
    text, home = json.dumps(found, default=str), json.dumps(str(file.absolute().parent))[1:-1]
    relative: dict[str, Any] = json.loads(text.replace(f'"{home}/', '"'))
    return relative


def machine_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each difference of another machine from the first; both are what `needs` returned."""
    for change in differences(first["recipe"], other["recipe"]):
        yield f"recipe: {change}"
    for file in sorted({*first["data"], *other["data"]}):
        if first["data"].get(file) != other["data"].get(file):
            here, there = file in other["data"], file in first["data"]
            yield f"data: {file}: {'other bytes' if here and there else 'is missing' if there else 'is read here only'}"
    if first[BASE_MODEL] != other[BASE_MODEL]:
        yield "model: other files"
    for part in ("packages", "plugins"):
        for name in sorted({*first[part], *other[part]}):
            ours, theirs = first[part].get(name), other[part].get(name)
            if ours != theirs:
                yield f"{part}: {name} {theirs or '(none)'} where the first has {ours or '(none)'}"
    if first["python"] != other["python"]:
        yield f"Python {other['python']} where the first has {first['python']}"
