"""What the results of a run depend on: fingerprints of its recipe, its data, its model and its software."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from ftp.cache import kept_digest
from ftp.components import Evaluator, Loader
from ftp.data.files import files_of
from ftp.files import digest
from ftp.guard import call
from ftp.packages import distributions_of
from ftp.plugins import Plugin, Plugins
from ftp.recipe.model import Recipe, components_of
from ftp.yaml_source import dotted

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


def packages_of(recipe: Recipe) -> dict[str, str]:
    """Return the version of every installed distribution that the components of a recipe require, by name."""
    required = {package for _, component in components_of(recipe) for package in component.requires}
    names = {name.lower() for package in required for name in distributions_of(package)}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def plugins_of(recipe: Recipe, plugins: Plugins) -> list[Plugin]:
    """Return the plugins whose components the recipe uses."""
    offers = (plugins.offer_of(component) for _, component in components_of(recipe))
    used = {offer.plugin.name for offer in offers if offer}
    return [plugin for plugin in plugins.plugins if plugin.name in used]


def fingerprint_of(lock: Mapping[str, Any]) -> str:
    """Return the fingerprint of the base model in the lock of a run; empty if it is not known.

    Release 0.1 wrote `commit None` for every model of the hub.
    """
    found = lock.get("model", {}).get("fingerprint") or lock.get(BASE_MODEL) or ""
    return "" if found == UNKNOWN else str(found)


def inputs_of(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs of the stages of a run: a digest of each part of its lock that results depend on."""
    return {key: digest(lock[key]) for key in (*INPUTS, BASE_MODEL) if key in lock}
