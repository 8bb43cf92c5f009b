"""Find plugins, load them, name the one that fails, and collect what they offer.

Pluggy's own `load_setuptools_entrypoints` stops at the first exception and skips a second entry point of the same
name. This module therefore has its own loop: each entry point of the group `ftp` is registered as
`distribution:name` and checked separately.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import pluggy
import pydantic

from ftp import hookspecs
from ftp.components import KINDS, Component, kind_of, unfinished
from ftp.errors import PluginError, did_you_mean
from ftp.files import file_digest
from ftp.packages import how_to_get, import_file, is_installed, normalised

GROUP = "ftp"
_OWN = (__file__, import_file.__code__.co_filename)
_LIBRARY = str(Path(importlib.__file__).parent)
_PLUGGY = str(Path(pluggy.__file__).parent)
_PYDANTIC = str(Path(pydantic.__file__).parent)
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass
class Plugin:
    """An entry point, loaded or not."""

    name: str
    """`distribution:entry-point`, or `file:PATH` for `-p`."""
    version: str
    error: str | None = None
    """Why it isn't in use; None if it is."""
    disabled: bool = False
    offers: list[tuple[str, str]] = field(default_factory=list)
    """Kind and name of each component that it offers."""

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


@dataclass(eq=False)
class Plugins:
    """What is installed."""

    plugins: list[Plugin]
    clashes: list[str]
    _offers: dict[tuple[str, str], Offer]
    _clashing: dict[tuple[str, str], str] = field(default_factory=dict)

    def offers(self, kind: str) -> dict[str, Offer]:
        """Return the components of a kind by name."""
        return {offer.name: offer for (of, _), offer in sorted(self._offers.items()) if of == kind}

    def offer_of(self, component: Component) -> Offer | None:
        """Return the offer that a component of a recipe was made from; None for one that nobody offers."""
        return self._offers.get((kind_of(component), component.used_as))

    def clash_of(self, name: str, kind: str | None = None) -> str | None:
        """Return who else offers a name, in words, or None; in any kind of component, or in one."""
        return next(
            (what for (of, other), what in self._clashing.items() if other == name and kind in (of, None)), None
        )

    def broken(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.error and not plugin.disabled]


def canonical(name: str) -> str:
    """Return a plugin's name as pip would spell it: `Acme_Evals:House` becomes `acme-evals:House`."""
    distribution, _, entry = name.strip().partition(":")
    return f"{normalised(distribution)}:{entry}"


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
            plugin.disabled, plugin.error = True, "disabled by --no-plugin or FTP_PLUGINS_DISABLED"
            continue
        _register(manager, plugin, entry.load)
    for file in dict.fromkeys(files):
        # A file has no version; its content stands for one, so that a run on another content is another run.
        plugin = Plugin(f"file:{file}", file_digest(file)[:12] if file.is_file() else "")
        found.append(plugin)
        _register(manager, plugin, partial(_import_file, file))
        if plugin.error:
            raise PluginError(f"-p {file}: {plugin.error}")

    offered = list(_offered(manager, {plugin.name: plugin for plugin in found}))
    for plugin in found:
        if plugin.error and plugin.name.startswith("file:"):
            raise PluginError(f"-p {plugin.name.removeprefix('file:')}: {plugin.error}")
    offers: dict[tuple[str, str], Offer] = {}
    clashing: dict[tuple[str, str], str] = {}
    for offer in offered:
        if offer.plugin.error:
            continue
        first = offers.setdefault((offer.kind, offer.name), offer)
        if first is not offer:
            clashing[offer.kind, offer.name] = (
                f"{offer.kind} '{offer.name}' is offered by both {first.plugin.name} and {offer.plugin.name}; "
                f"{_way_out(first.plugin, offer.plugin)}"
            )
    return Plugins(found, list(clashing.values()), offers, clashing)


def _offered(manager: pluggy.PluginManager, plugins: Mapping[str, Plugin]) -> Iterator[Offer]:
    """Call every hook of every plugin. An error is recorded on the plugin that raised it."""
    for kind, base in KINDS.items():
        for implementation in getattr(manager.hook, f"ftp_{kind}").get_hookimpls():
            plugin = plugins[implementation.plugin_name]
            try:
                components = _checked(kind, base, implementation.function())
            except (Exception, SystemExit) as error:  # a plugin's own code may raise anything; it alone is at fault
                plugin.error = f"its hook ftp_{kind}: {_blame(error)}"
                continue
            plugin.offers += [(kind, name) for name in components]
            yield from (Offer(kind, name, component, plugin) for name, component in components.items())


def _way_out(first: Plugin, second: Plugin) -> str:
    if not second.name.startswith("file:"):
        return f"disable one: --no-plugin {second.name}"
    if first.name.startswith("file:"):
        return "rename one of them"
    return f"rename yours, or disable the other: --no-plugin {first.name}"


def _register(manager: pluggy.PluginManager, plugin: Plugin, load: Callable[[], object]) -> None:
    try:
        module = load()
        _check_hooks(manager, module)
        manager.register(module, plugin.name)
        manager.check_pending()
    except (Exception, SystemExit) as error:  # an import may raise anything; it is that plugin's fault alone
        if manager.has_plugin(plugin.name):
            manager.unregister(name=plugin.name)
        plugin.error = _blame(error)


def _check_hooks(manager: pluggy.PluginManager, module: object) -> None:
    """Refuse a module without hooks, or with hooks that FTP doesn't have."""
    hooks = [f"ftp_{kind}" for kind in KINDS]
    where = getattr(module, "__file__", None) or repr(module)
    twin = manager.get_name(module)
    if twin:
        raise PluginError(f"{where} is registered already, as {twin}; give each entry point its own module")
    marked = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
    for name in marked:
        if name not in hooks:
            raise PluginError(f"unknown hook '{name}' in {where}{did_you_mean(name, hooks)}")
    for name in hooks:
        if name not in marked and callable(getattr(module, name, None)):
            raise PluginError(f"'{name}' in {where} lacks its @ftp.hookimpl")
    if not marked:
        raise PluginError(f"{where} defines no hook; one of {', '.join(hooks)} is needed")


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise PluginError("no such file")
    name = f"ftp_file_{re.sub(r'[^0-9a-zA-Z_]', '_', file.stem)}"
    while name in sys.modules and sys.modules[name].__file__ != str(file.resolve()):
        name += "_"  # another file of the same name, in another directory
    return import_file(file.resolve(), name)


def _checked(kind: str, base: type[Component], offered: object) -> dict[str, type[Component]]:
    """Check what a hook returned, so that a mistake shows here and not in the middle of a run."""
    if not isinstance(offered, dict):
        raise PluginError(f"returned {type(offered).__name__}, not a dict of name to class")
    for name, component in offered.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PluginError(f"the name {name!r} is not lower case letters, digits and underscores")
        if not (inspect.isclass(component) and issubclass(component, base)):
            raise PluginError(f"'{name}' is not a subclass of ftp.{base.__name__}")
        if "use" in component.model_fields:
            raise PluginError(f"'{name}' has an option called 'use', which names the component itself")
        if not component.__pydantic_complete__:
            component.model_rebuild()  # raises where the type of an option is not known at run time
        missing = unfinished(component)
        if missing:
            raise PluginError(f"'{name}' ({component.__name__}) {missing}")
    return offered


def _blame(error: BaseException) -> str:
    """Return the error as one line, with the place in the plugin where it was raised."""
    what = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(str(error).split())
    if isinstance(error, PluginError):
        return what
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _OWN and not frame.filename.startswith(("<frozen", _LIBRARY, _PLUGGY, _PYDANTIC))
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        what, place = error.msg, f" ({error.filename}:{error.lineno})"
    return f"{type(error).__name__}: {what}{place}"


def missing_packages(offer: Offer) -> Iterable[str]:
    """Return how to install the packages that the component imports and that are not installed, a line a remedy."""
    remedies: dict[str, list[str]] = {}
    for package in offer.component.requires:
        if not is_installed(package):
            remedies.setdefault(how_to_get(package, offer.plugin.distribution), []).append(package)
    for remedy, packages in remedies.items():
        yield f"{offer.name} needs {', '.join(packages)}: pip install '{remedy}'"
