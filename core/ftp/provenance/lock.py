"""The lock of a run: a record of everything it was made from, and of the command that began it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftp.errors import RunError
from ftp.files import digest
from ftp.plugins import Plugins
from ftp.provenance.changes import changed, differences
from ftp.provenance.fingerprints import INPUTS, UNKNOWN, inputs_of
from ftp.records import schemas
from ftp.runs.directory import RunDirectory
from ftp.types import LoadedModel

LOCK = "run.lock.json"


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


def lock_to_resume(directory: RunDirectory) -> dict[str, Any]:
    """Return the lock of a run that can be resumed."""
    found = lock_of(directory)
    if not found.keys() >= set(INPUTS):
        raise RunError(f"{directory.path / LOCK}: not the lock of a run")
    return found


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
    lock_to_resume(directory)
    return origin or {"recipe": str(directory.path / "recipe.yaml"), "plugins": [], "without": []}


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
    found = [f"model: {what}" for what in differences(before, now)]
    if not anyway:
        raise changed(directory, found)
    _record(directory, {**lock, "model": now}, found)
    return found


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
