"""The question whether a run or a recipe may do what only this machine's user can allow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ftp.cli.echo import echo

if TYPE_CHECKING:
    from ftp.recipe.model import Recipe
    from ftp.runs.directory import RunDirectory

TRUST = click.option(
    "--trust",
    is_flag=True,
    help="Allow what a run or recipe of somebody else would run, load or send, without the question.",
)


def ask_for_run(directory: RunDirectory, needed: Sequence[str], trust: bool) -> None:
    """Have the user allow what a run would do, unless the run was made here with the same consent.

    Raises:
        RunError: it is not allowed.
    """
    from ftp.errors import RunError
    from ftp.provenance import trust as consents

    found = consents.missing(directory, needed)
    why = f"{directory.path}: this run was not made on this machine by you, or was changed since"
    if not found:
        return
    if not _agreed(why, found, trust):
        raise RunError("\n".join([f"{why}. It would", *_lines(found), "--trust allows that."]))
    if failure := consents.allow(directory, found):
        echo(f"warning: your consent can't be kept for the next time: {failure}", err=True)


def ask_for_recipe(recipe: Recipe, name: str, trust: bool) -> None:
    """Have the user allow what even the user's own recipe does not decide alone.

    Raises:
        RecipeError: it is not allowed.
    """
    from ftp.errors import RecipeError
    from ftp.provenance import trust as consents

    found = consents.of_recipe(recipe, own=True)
    if found and not _agreed(f"{name}: this recipe needs your consent", found, trust):
        raise RecipeError([f"{name}: this recipe needs your consent. It would", *_lines(found), "--trust allows that."])


def _lines(found: Sequence[str]) -> list[str]:
    return [f"  - {what}" for what in found]


def _agreed(why: str, found: Sequence[str], trust: bool) -> bool:
    if trust:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    for line in (f"{why}. It would", *_lines(found)):
        echo(line, err=True)
    return click.confirm("Allow that?", default=False, err=True)
