"""`ftp plugins`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftp.cli.echo import echo
from ftp.cli.options import JSON, plugin_options

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ftp.plugins import Plugins
    from ftp.slots import Slots


@click.command("plugins")
@click.argument("words", metavar="[show NAME]", nargs=-1)
@plugin_options
@JSON
def command(words: tuple[str, ...], files: tuple[Path, ...], without: tuple[str, ...], as_json: bool) -> None:
    """List what is installed, and why a plugin is broken; `ftp plugins show NAME` prints a component's options."""
    from ftp import plugins

    found = plugins.load(files, without)
    if not words:
        _list(found, as_json)
    elif words[0] == "show" and len(words) == 2:
        _show(found, words[1], as_json)
    else:
        raise click.UsageError("write `ftp plugins` or `ftp plugins show NAME`")


def _list(found: Plugins, as_json: bool) -> None:
    import json
    import sys

    from rich.table import Table
    from rich.text import Text

    from ftp.cli.console import Console

    if as_json:
        records = [
            {
                "plugin": plugin.name,
                "version": plugin.version,
                "error": plugin.error,
                "disabled": plugin.disabled,
                "offers": [{"kind": kind, "name": name} for kind, name in plugin.offers],
            }
            for plugin in found.plugins
        ]
        echo(json.dumps({"plugins": records, "clashes": found.clashes}, indent=2))
        return
    table = Table("Plugin", "Version", "Kind", "Name", "What it is", box=None, pad_edge=False)
    for plugin in found.plugins:
        if plugin.error:
            state = "kept out" if plugin.disabled else "BROKEN"
            table.add_row(
                plugin.name, plugin.version, Text(state, "yellow" if plugin.disabled else "red"), "", Text(plugin.error)
            )
        for kind, name in plugin.offers:
            doc = (found.offers(kind)[name].component.__doc__ or "").strip().split("\n")[0]
            table.add_row(plugin.name, plugin.version, kind, name, Text(doc))
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False)
    for clash in found.clashes:
        echo(clash, err=True)


def _show(found: Plugins, name: str, as_json: bool) -> None:
    import json

    from ftp.components import KINDS
    from ftp.errors import PluginError, did_you_mean
    from ftp.slots import Slots, block_schema

    slots = Slots(found)
    offers = [offer for kind in KINDS for offer in found.offers(kind).values() if offer.name == name]
    if not offers:
        known = {known for kind in KINDS for known in found.offers(kind)}
        raise PluginError(f"nothing called '{name}' is installed{did_you_mean(name, known)}")
    if as_json:
        schemas = [block_schema(offer.component, found) for offer in offers]
        echo(json.dumps(schemas, indent=2, ensure_ascii=False))
        return
    for offer in offers:
        echo(f"{offer.name} ({offer.kind}), from {offer.plugin.name} {offer.plugin.version}".rstrip())
        echo(f"\n{(offer.component.__doc__ or '').strip()}\n")
        fields = sorted(offer.component.model_fields.items(), key=lambda field: not field[1].is_required())
        for option, field in fields:
            echo(f"  {option}  ({'; '.join([*slots.uses(field.annotation), _default(slots, field)])})")
            echo(f"      {' '.join((field.description or '').split())}")
        if offer.component.requires:
            echo(f"\nNeeds: {', '.join(offer.component.requires)}")


def _default(slots: Slots, field: FieldInfo) -> str:
    from ftp.slots import dump

    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"default {dump(slots.named(value)) if slots.uses(field.annotation) else value!r}"
