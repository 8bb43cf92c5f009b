"""Find plugins, load them, say which one is to blame, and collect what they offer.

Pluggy's own `load_setuptools_entrypoints` stops at the first exception and skips a second entry point of the same
name, so the loop is ours: each entry point of the group `ftp` is registered as `distribution:name` and checked alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pluggy

from ftp import hookspecs
from ftp.components import KINDS, Component, unfinished
from ftp.errors import PluginError, did_you_mean

GROUP = "ftp"
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass
class Plugin:
    """One entry point, loaded or not."""

    name: str
    """`distribution:entry-point`, or `file:PATH` for `-p`."""
    version: str
    error: str | None = None
    """Why it is not in use; None when it is."""
    disabled: bool = False
    offers: list[tuple[str, str]] = field(default_factory=list)
    """Kind and name of what it offers."""

    @property
    def distribution(self) -> str:
        return self.name.split(":", 1)[0]


@dataclass(frozen=True)
class Offer:
    """A component under the name that recipes use."""

    kind: str
    name: str
    component: type[Component]
    plugin: Plugin


@dataclass
class Plugins:
    """What is installed."""

    plugins: list[Plugin]
    clashes: list[str]
    _offers: dict[tuple[str, str], Offer]

    def offers(self, kind: str) -> dict[str, Offer]:
        """The components of a kind by name."""
        return {offer.name: offer for (of, _), offer in sorted(self._offers.items()) if of == kind}

    def broken(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.error and not plugin.disabled]


def canonical(name: str) -> str:
    """`Acme_Evals:House` as pip would spell it: `acme-evals:House`."""
    distribution, _, entry = name.strip().partition(":")
    return f"{re.sub(r'[-_.]+', '-', distribution).lower()}:{entry}"


def load(files: Sequence[Path] = (), without: Sequence[str] = ()) -> Plugins:
    """Load every installed plugin and the given one-file plugins.

    Args:
        files: Python files named with `-p`.
        without: `distribution:name` of plugins to keep out, besides those in `FTP_PLUGINS_DISABLED`.

    Raises:
        PluginError: a file of `files` can't be used, or a name of `without` is not installed.
    """
    manager = pluggy.PluginManager("ftp")
    manager.add_hookspecs(hookspecs)
    entries = {
        canonical(f"{entry.dist.name if entry.dist else 'unknown'}:{entry.name}"): entry
        for entry in importlib.metadata.entry_points(group=GROUP)
    }
    disabled = {canonical(name) for name in os.environ.get("FTP_PLUGINS_DISABLED", "").split(",") if name.strip()}
    for name in without:
        if canonical(name) not in entries:
            raise PluginError(f"--no-plugin {name}: no such plugin{did_you_mean(canonical(name), entries)}")
        disabled.add(canonical(name))

    found: list[Plugin] = []
    for name, entry in sorted(entries.items(), key=lambda item: (not item[0].startswith("ftp-finetune:"), item[0])):
        plugin = Plugin(name, entry.dist.version if entry.dist else "")
        found.append(plugin)
        if name in disabled:
            plugin.disabled, plugin.error = True, "kept out by --no-plugin or FTP_PLUGINS_DISABLED"
            continue
        _register(manager, plugin, entry.load)
    for file in files:
        plugin = Plugin(f"file:{file}", "")
        found.append(plugin)
        _register(manager, plugin, lambda file=file: _import_file(file))
        if plugin.error:
            raise PluginError(f"-p {file}: {plugin.error}")

    by_name = {plugin.name: plugin for plugin in found}
    offers: dict[tuple[str, str], Offer] = {}
    clashes: list[str] = []
    for kind, base in KINDS.items():
        for implementation in getattr(manager.hook, f"ftp_{kind}").get_hookimpls():
            plugin = by_name[implementation.plugin_name]
            try:
                offered = _checked(kind, base, implementation.function())
            except Exception as error:  # a plugin's own code may raise anything; it is that plugin's fault alone
                plugin.error = f"its hook ftp_{kind}: {_blame(error)}"
                continue
            for name, component in offered.items():
                other = offers.get((kind, name))
                if other:
                    clashes.append(
                        f"{kind} '{name}' is offered by both {other.plugin.name} and {plugin.name}; keep one out: "
                        f"--no-plugin {plugin.name}"
                    )
                    continue
                offers[kind, name] = Offer(kind, name, component, plugin)
                plugin.offers.append((kind, name))
    broken = {plugin.name for plugin in found if plugin.error}
    offers = {key: offer for key, offer in offers.items() if offer.plugin.name not in broken}
    for plugin in found:
        if plugin.error and plugin.name.startswith("file:"):
            raise PluginError(f"-p {plugin.name.removeprefix('file:')}: {plugin.error}")
    return Plugins(found, clashes, offers)


def _register(manager: pluggy.PluginManager, plugin: Plugin, load: Callable[[], object]) -> None:
    try:
        module = load()
        manager.register(module, plugin.name)
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            manager.unregister(module)
            hooks = [f"ftp_{kind}" for kind in KINDS]
            hook = next((name for name in dir(module) if name.startswith("ftp_") and name not in hooks), "")
            hint = did_you_mean(hook, hooks) if hook else ""
            plugin.error = f"{str(error).splitlines()[0]}{hint}"
    except (Exception, SystemExit) as error:  # an import may raise anything; it is that plugin's fault alone
        if manager.has_plugin(plugin.name):
            manager.unregister(name=plugin.name)
        plugin.error = _blame(error)


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise PluginError("no such file")
    name = f"ftp_file_{re.sub(r'[^0-9a-zA-Z_]', '_', file.stem)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered under its name so that pydantic can read the docstrings of its fields and pickle can find its classes.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if not any(hasattr(module, f"ftp_{kind}") for kind in KINDS):
        raise PluginError(f"defines no hook; one of {', '.join(f'ftp_{kind}' for kind in KINDS)} is needed")
    return module


def _checked(kind: str, base: type[Component], offered: object) -> dict[str, type[Component]]:
    """Check what a hook returned, so that a mistake is found here and not in the middle of a run."""
    if not isinstance(offered, dict):
        raise PluginError(f"returned {type(offered).__name__}, not a dict of name to class")
    for name, component in offered.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PluginError(f"the name {name!r} is not lower case letters, digits and underscores")
        if not (inspect.isclass(component) and issubclass(component, base)):
            raise PluginError(f"'{name}' is not a subclass of ftp.{base.__name__}")
        if "use" in component.model_fields:
            raise PluginError(f"'{name}' has an option called 'use', which names the component itself")
        missing = unfinished(component)
        if missing:
            raise PluginError(f"'{name}' ({component.__name__}) {missing}")
    return offered


def _blame(error: BaseException) -> str:
    """The error in a line, with the place in the plugin where it arose."""
    what = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, PluginError):
        return what
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}:{error.lineno})"
    return f"{type(error).__name__}: {what}{place}"


def missing_packages(offer: Offer) -> Iterable[str]:
    """For each package that the component imports and that is not installed: what to install."""
    for package in offer.component.requires:
        if importlib.util.find_spec(package) is None:
            yield f"{offer.name} needs {package}: pip install '{_how_to_get(package, offer.plugin.distribution)}'"


def _how_to_get(package: str, distribution: str) -> str:
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return package
    wanted = package.replace("_", "-").lower()
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        if name and extra and canonical(name.group()) == canonical(wanted):
            return f"{distribution}[{extra.group(1)}]"
    return package
