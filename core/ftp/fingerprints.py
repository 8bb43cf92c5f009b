"""What a run was made from: its lock, and whether another run was made from the same."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftp.data import Source
from ftp.errors import RunError
from ftp.plugins import Plugins
from ftp.recipe import Recipe, plugins_of
from ftp.rows import files_of
from ftp.rundir import RunDirectory, digest, file_digest, runs_below
from ftp.types import LoadedModel

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "gguf", "openai")


def fingerprints(recipe: Recipe, plugins: Plugins) -> dict[str, Any]:
    """What the result depends on: the resolved recipe, the bytes of the data, packages, plugins, hardware."""
    sources = [*recipe.data.train, *recipe.data.evals.values()]
    if isinstance(recipe.data.validation, Source):
        sources.append(recipe.data.validation)
    files = {file for source in sources if source.path for file in files_of(source.path)}
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "recipe": recipe.resolved(),
        "data": {str(file): file_digest(file) for file in sorted(files)},
        "packages": installed,
        "plugins": {plugin.name: plugin.version for plugin in plugins_of(recipe, plugins)},
        "hardware": {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()},
    }


def equal_run(root: Path, name: str, lock: Mapping[str, Any]) -> RunDirectory | None:
    """The newest run that was made from the same things."""
    for directory in reversed(runs_below(root, name)):
        recorded = directory.read_json("run.lock.json")
        if all(digest(recorded.get(key)) == digest(lock[key]) for key in lock if key != "hardware"):
            return directory
    return None


def note_model(directory: RunDirectory, loaded: LoadedModel) -> None:
    """Add to the lock what only the loaded model can tell; refuse when a run goes on with another one."""
    lock = directory.read_json("run.lock.json")
    tokenizer = digest(loaded.tokenizer.backend_tokenizer.to_str())
    now = {
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "dtype": loaded.request.dtype,
        "quantization": loaded.request.quantization and dataclasses.asdict(loaded.request.quantization),
        "device": str(loaded.model.device),
        "tokenizer": tokenizer,
        "chat_template": digest(loaded.tokenizer.chat_template),
    }
    before = lock.get("model")
    if before is not None and before != now:
        changed = ", ".join(key for key in now if before.get(key) != now[key])
        raise RunError(
            f"{directory.path}: this run began with another model; changed: {changed}. Start anew with --new."
        )
    directory.write_json("run.lock.json", {**lock, "model": now})
