"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftp.cli.echo import echo

if TYPE_CHECKING:
    from ftp.plugins import Plugins
    from ftp.recipe.model import Recipe

RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
SET = click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="Override a value of the recipe: --set train.epochs=1",
)


def _for_runs(context: click.Context, option: click.Parameter, root: Path) -> Path:
    if root.exists() and not root.is_dir():
        raise click.BadParameter(f"{root} is not a directory")
    return root


def for_writing(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Make sure before the work begins that a file can be written; a directory that it lies in is made."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise click.BadParameter(f"{file} can't be written")
    return file


RUNS = click.option(
    "--runs",
    "root",
    callback=_for_runs,
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Directory for runs.",
)


def _replay(context: click.Context, option: click.Parameter, on: bool) -> None:
    if on:
        from ftp.records.replay import REPLAY

        os.environ[REPLAY] = "1"


REPLAY = click.option(
    "--replay",
    is_flag=True,
    expose_value=False,
    callback=_replay,
    help="Make no calls to services: take every reply from the record of earlier calls.",
)
PLUGIN = click.option(
    "-p",
    "--plugin",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A Python file to use as a plugin.",
)


def _traceback(context: click.Context, option: click.Parameter, on: bool) -> None:
    if on:
        context.find_root().ensure_object(dict)["traceback"] = True


TRACEBACK = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    callback=_traceback,
    help="Show where in the code an error arose.",
)


class FiniteRange(click.FloatRange):
    """A number within limits; `nan` is within none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def plugin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options `-p FILE` and `--no-plugin NAME` to a command."""
    command = PLUGIN(command)
    return click.option(
        "--no-plugin", "without", metavar="DIST:NAME", multiple=True, help="An installed plugin to disable."
    )(command)


def load_plugins(files: tuple[Path, ...], without: tuple[str, ...]) -> Plugins:
    """Load the plugins; report on stderr which ones are broken."""
    from ftp import plugins

    found = plugins.load(files, without)
    for plugin in found.broken():
        echo(f"warning: plugin {plugin.name} is broken and not in use: {plugin.error}", err=True)
    return found


def load_recipe(file: Path, plugins: Plugins, settings: tuple[str, ...]) -> Recipe:
    from ftp import recipe

    return recipe.read(file, plugins, settings)


def write_output(file: Path, text: str) -> None:
    """Write a file that the command line names."""
    from ftp.errors import FtpError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FtpError(f"{file}: can't be written: {error.strerror or error}") from None
