"""`--on`: the processes of a run, started by a launcher."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ftp.cli.echo import echo

if TYPE_CHECKING:
    from ftp.plugins import Plugins

ON = click.option(
    "--on",
    "placement",
    metavar="FILE|NAME",
    help="Where to run: a placement file, or the name of a launcher, with processes if you like: --on local:2",
)


def launch(placement: str, plugins: Plugins, name: str, command: Sequence[str], only_once: Sequence[str] = ()) -> None:
    """Have a launcher start the processes of a run, and exit with the run's exit code.

    Args:
        name: of the run.
        command: the `ftp` command without `ftp` and `--on`.
        only_once: options of the first start that would spoil a later one.
    """
    from ftp.components import Launch
    from ftp.guard import call
    from ftp.placement import read_placement

    launcher = read_placement(placement, plugins)
    again = [sys.executable, "-m", "ftp", *command]
    job = Launch([*again, *only_once], again, lambda text: echo(text, err=True), name)
    sys.exit(call(int, launcher.launch, job))


def plugin_arguments(files: Sequence[object], without: Sequence[str]) -> list[str]:
    """Return the options that load the same plugins in another process."""
    return [*(f"--plugin={file}" for file in files), *(f"--no-plugin={name}" for name in without)]
