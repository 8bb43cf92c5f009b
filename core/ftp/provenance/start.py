"""How a run begins: in the directory of an equal one or in a new one, and whether an old one can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ftp.errors import RunError
from ftp.plugins import Plugins
from ftp.provenance import trust
from ftp.provenance.changes import changed, changes
from ftp.provenance.fingerprints import fingerprints
from ftp.provenance.lock import LOCK, accept, lock_of, lock_to_resume, note_origin, origin_of, plugin_files
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory, runs_below


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


def equal_run(
    root: Path, name: str, lock: Mapping[str, Any], note: Callable[[str], None] = lambda text: None
) -> RunDirectory | None:
    """Return the newest run that was made from the same inputs from beginning to end.

    Args:
        note: called with a message for every run that is skipped because its lock can't be read.
    """
    for directory, recorded in _readable(root, name, note):
        if not recorded.get("anyway") and not changes(recorded, lock):
            return directory
    return None


def _readable(
    root: Path, name: str, note: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[RunDirectory, dict[str, Any]]]:
    """Yield the runs of this name with their locks, newest first; skip those whose lock can't be read."""
    for directory in reversed(runs_below(root, name)):
        try:
            recorded = lock_to_resume(directory)
        except RunError as error:
            note(f"An old run is skipped: {error}")
        else:
            yield directory, recorded


def unfinished_run(root: Path, name: str, note: Callable[[str], None] = lambda text: None) -> RunDirectory | None:
    """Return the newest run of this name that is unfinished and that no process is working on.

    Args:
        note: called with a message for every run that is skipped because its stages can't be read.
    """
    for directory, _ in _readable(root, name):
        try:
            if "report" not in directory.stages() and not _is_held(directory):
                return directory
        except RunError as error:
            note(f"An old run is skipped: {error}")
    return None


def _is_held(directory: RunDirectory) -> bool:
    try:
        with directory.lock():
            return False
    except RunError:
        return True


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
