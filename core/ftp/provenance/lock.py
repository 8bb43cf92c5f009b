"""The lock of a run: a record of everything it was made from, for comparing it with another run."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftp.cache import kept_digest
from ftp.components import Evaluator, Loader
from ftp.data.files import files_of
from ftp.errors import RunError
from ftp.files import digest, finite
from ftp.guard import call
from ftp.packages import distributions_of
from ftp.plugins import Plugins
from ftp.recipe.model import Recipe, components_of
from ftp.recipe.read import plugins_of
from ftp.records import schemas
from ftp.runs.directory import RunDirectory, runs_below
from ftp.types import LoadedModel
from ftp.yaml_source import Path_, dotted, shown_value

LOCK = "run.lock.json"
INPUTS = ("recipe", "data", "packages", "plugins")
"""The parts of a lock that results depend on; other hardware changes only rounding."""
UNKNOWN = "commit None"
BASE_MODEL = "base_model"
"""One more, which the lock of an older release lacks: there the fingerprint is noted when the model is loaded."""


def fingerprints(recipe: Recipe, plugins: Plugins, *, with_model: bool = True) -> dict[str, Any]:
    """Return what the result depends on: recipe, bytes of data and base model, packages, plugins, hardware.

    Args:
        with_model: look at the base model too; its files may be large.
    """
    files = {file for _, source in recipe.data.sources() if source.path for file in files_of(source.path)}
    readers = [(path, part) for path, part in components_of(recipe) if isinstance(part, Evaluator | Loader)]
    files |= {file for _, reader in readers for file in call(Sequence, reader.files)}
    # Models beside the base model: a judge in this process, say.
    models = {dotted(path): part for path, part in readers if isinstance(part, Loader) and path != ("model",)}
    return {
        "recipe": recipe.resolved(),
        "data": {
            **{str(file): kept_digest(file) for file in sorted(files)},
            **{place: call(str | None, model.fingerprint) for place, model in models.items() if with_model},
        },
        **({BASE_MODEL: call(str | None, recipe.model.fingerprint)} if with_model else {}),
        **_lineage(recipe.model if with_model else None),
        "packages": packages_of(recipe),
        "plugins": {plugin.name: plugin.version for plugin in plugins_of(recipe, plugins)},
        "hardware": {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()},
    }


def _lineage(loader: Loader | None) -> dict[str, Any]:
    """Return the entry of the lock for a model that is from an earlier run."""
    lineage = dict(call(Mapping, loader.lineage)) if loader else {}
    return {"lineage": lineage} if lineage else {}


def lock_of(directory: RunDirectory) -> dict[str, Any]:
    """Return what a run was made from.

    Raises:
        RunError: the file is missing or damaged, or the directory is no run.
    """
    found: dict[str, Any] | None = directory.read_json(LOCK, schemas.Lock)
    if found is None and not (directory.path / "resolved.yaml").is_file():
        raise RunError(f"{directory.path}: not a run directory")
    if found is None:
        raise RunError(f"{directory.path / LOCK}: missing; put it back from a copy")
    return found


def fingerprint_of(lock: Mapping[str, Any]) -> str:
    """Return the fingerprint of the base model in the lock of a run; empty if it is not known.

    Release 0.1 wrote `commit None` for every model of the hub.
    """
    found = lock.get("model", {}).get("fingerprint") or lock.get(BASE_MODEL) or ""
    return "" if found == UNKNOWN else str(found)


def _whole(directory: RunDirectory) -> dict[str, Any]:
    """Return the lock of a run that can be resumed."""
    found = lock_of(directory)
    if not found.keys() >= set(INPUTS):
        raise RunError(f"{directory.path / LOCK}: not the lock of a run")
    return found


def packages_of(recipe: Recipe) -> dict[str, str]:
    """Return the version of every installed distribution that the components of a recipe require, by name."""
    required = {package for _, component in components_of(recipe) for package in component.requires}
    names = {name.lower() for package in required for name in distributions_of(package)}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


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
            recorded = _whole(directory)
        except RunError as error:
            note(f"An old run is skipped: {error}")
        else:
            yield directory, recorded


def plugin_files(plugins: Plugins) -> list[Path]:
    """Return the Python files that were given as plugins on the command line."""
    return [Path(p.name.removeprefix("file:")) for p in plugins.plugins if p.name.startswith("file:")]


def note_origin(directory: RunDirectory, file: Path, plugins: Plugins) -> None:
    """Record what the command line said and the recipe doesn't: its path, and plugins added or disabled."""
    files = list(map(str, plugin_files(plugins)))
    without = [plugin.name for plugin in plugins.plugins if plugin.disabled]
    directory.write_json("origin.json", {"recipe": str(file.absolute()), "plugins": files, "without": without})


def origin_of(directory: RunDirectory) -> dict[str, Any]:
    """Return what `note_origin` recorded.

    Raises:
        RunError: it is not a run directory.
    """
    origin: dict[str, Any] | None = directory.read_json("origin.json", schemas.Origin)
    if not (directory.path / LOCK).is_file():
        instead = f"; `ftp run {directory.path}` resumes its run" if directory.path.is_file() else ""
        raise RunError(f"{directory.path}: not a run directory{instead}")
    _whole(directory)
    return origin or {"recipe": str(directory.path / "recipe.yaml"), "plugins": [], "without": []}


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


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the differences between two locks, a line for each recipe key, file, package and plugin.

    A package that only one of them names is not a change: which packages are named depends on the components and on the
    release that wrote the lock.
    """
    now = json.loads(json.dumps(finite(now), default=str))  # as the other was written and read
    found = [f"recipe: {what}" for what in _differences(before.get("recipe", {}), now["recipe"])]
    old, new = before.get("data", {}), now["data"]
    for file in sorted({*old, *new}):
        if old.get(file) != new.get(file):
            what = "new" if file not in old else "no longer read" if file not in new else "its content has changed"
            found.append(f"data: {file}: {what}")
    loaded = fingerprint_of(before)
    if loaded and now.get(BASE_MODEL) and loaded != now[BASE_MODEL]:
        found.append("model: its files have changed")
    known = {name: version for name, version in before.get("packages", {}).items() if name in now["packages"]}
    found += [f"packages: {what}" for what in _differences(known, {name: now["packages"][name] for name in known})]
    found += [f"plugins: {what}" for what in _differences(before.get("plugins", {}), now["plugins"])]
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield `train.epochs: 3 -> 5` for each value that differs between two nested blocks."""
    before, after = dict(_leaves(old, ())), dict(_leaves(new, ()))
    for path in (*before, *(path for path in after if path not in before)):
        if path not in before or path not in after or before[path] != after[path]:
            values = (shown_value(side[path]) if path in side else "(none)" for side in (before, after))
            yield f"{dotted(path)}: {' -> '.join(values)}"


def _leaves(value: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if path and (not items or not value):
        yield path, value
    for key, item in items:
        yield from _leaves(item, (*path, key))


def accept(directory: RunDirectory, lock: Mapping[str, Any], found: Sequence[str]) -> None:
    """Let a run continue with changed inputs, and record the changes in its lock; finished stages stay finished."""
    recorded = lock_of(directory)
    _record(directory, {**recorded, **lock, "hardware": recorded["hardware"]}, found)
    inputs = inputs_of(lock_of(directory))
    stages = {name: {**record, "inputs": inputs} for name, record in directory.stages().items()}
    directory.write_json("stages.json", stages)


def _record(directory: RunDirectory, lock: Mapping[str, Any], found: Sequence[str]) -> None:
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "changes": list(found)}
    directory.write_json(LOCK, {**lock, "anyway": [*lock.get("anyway", []), entry]})


def inputs_of(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs of the stages of a run: a digest of each part of its lock that results depend on."""
    return {key: digest(lock[key]) for key in (*INPUTS, BASE_MODEL) if key in lock}


def note_model(directory: RunDirectory, loaded: LoadedModel, *, anyway: bool = False) -> list[str]:
    """Add the details of the loaded model to the lock, and return those that have changed since the run began.

    Args:
        anyway: continue with a different model, and record it.

    Raises:
        RunError: the run began with another model.
    """
    lock = lock_of(directory)
    now = {
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "dtype": loaded.request.dtype,
        "quantization": loaded.request.quantization and dataclasses.asdict(loaded.request.quantization),
        "compute": loaded.request.compute,
        "device": str(loaded.model.device),
        "tokenizer": digest(loaded.tokenizer.backend_tokenizer.to_str()),
        "chat_template": digest(loaded.tokenizer.chat_template),
    }
    before = lock.get("model")
    if before is not None and before.get("fingerprint") == UNKNOWN:
        before = {**before, "fingerprint": now["fingerprint"]}
    if before is not None:  # an older release did not record what it multiplied in
        before = {"compute": now["compute"], **before}
    if before is None or before == now:
        directory.write_json(LOCK, {**lock, "model": now})
        return []
    found = [f"model: {what}" for what in _differences(before, now)]
    if not anyway:
        raise changed(directory, found)
    _record(directory, {**lock, "model": now}, found)
    return found


def changed(directory: RunDirectory, found: Sequence[str]) -> RunError:
    """Return the error for resuming a run whose inputs have changed."""
    return RunError(
        "\n".join(
            (
                f"{directory.path}: the inputs of this run have changed since it began:",
                *(f"  {what}" for what in found),
                f"`ftp run --new` begins a new run; `ftp resume {directory.path} --anyway` resumes this one.",
            )
        )
    )
