"""How a run begins, and whether it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ftp.plugins import Plugins
from ftp.provenance import trust
from ftp.provenance.lock import (
    LOCK,
    accept,
    changed,
    changes,
    equal_run,
    fingerprints,
    lock_of,
    note_origin,
    origin_of,
    plugin_files,
    unfinished_run,
)
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory


def run_directory(
    root: Path, name: str, lock: Mapping[str, Any], new: bool, note: Callable[[str], None]
) -> RunDirectory:
    """Return the directory of the newest run made from the same inputs, or a new one.

    Args:
        new: return a new one in any case.
        note: called with what the user should know of other runs of this name.
    """
    equal = None if new else equal_run(root, name, lock, note)
    if equal is None and not new and (other := unfinished_run(root, name, note)):
        found = changes(lock_of(other), lock)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        why = f"{found[0]}{more}" if found else "it was resumed with changed inputs"
        note(
            f"A new run begins. There is an unfinished one of this name with other inputs ({why}); "
            f"`ftp resume {other.path}` resumes it."
        )
    return equal or RunDirectory.create(root, name)


def begin(
    directory: RunDirectory,
    recipe: Recipe,
    plugins: Plugins,
    file: Path,
    lock: Mapping[str, Any],
    note: Callable[[str], None],
) -> None:
    """Record what a run is made from, unless that is done; with the last of these files the directory is a run.

    Args:
        note: called with what the user should know.
    """
    if not (directory.path / LOCK).is_file():
        directory.write_text("recipe.yaml", file.read_text(encoding="utf-8"))
        resolved = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
        directory.write_text("resolved.yaml", resolved)
        note_origin(directory, file, plugins)
        may = [*trust.of_files(plugin_files(plugins)), *trust.of_recipe(recipe)]
        if failure := trust.allow(directory, may):
            note(f"`ftp resume` will ask for your consent, as the run can't be signed: {failure}")
        directory.write_json(LOCK, lock)


def accept_changes(
    directory: RunDirectory, recipe: Recipe, plugins: Plugins, anyway: bool, note: Callable[[str], None]
) -> list[str]:
    """Return what has changed since a run began, recorded in its lock.

    Args:
        note: called with what the user should know though it doesn't matter.

    Raises:
        RunError: something has changed, and it is not to be resumed anyway.
    """
    lock, recorded = fingerprints(recipe, plugins), lock_of(directory)
    file = Path(origin_of(directory)["recipe"])
    found = changes(recorded, lock)
    if found and not anyway:
        raise changed(directory, found)
    if found:
        accept(directory, lock, found)
    if file.is_file() and file.read_text(errors="replace") != (directory.path / "recipe.yaml").read_text():
        note(f"{file} has changed since; the run continues with the recipe that it began with.")
    if lock["hardware"] != recorded["hardware"]:
        note("This run began on another machine or another Python: losses may differ in the last digits.")
    return found
