"""`ftp check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftp.cli.echo import echo
from ftp.cli.options import RECIPE, SET, load_plugins, load_recipe, plugin_options

if TYPE_CHECKING:
    from ftp.recipe.model import Recipe


@click.command("check")
@RECIPE
@SET
@plugin_options
@click.option("--no-data", is_flag=True, help="Check only the recipe; read no rows.")
def command(
    recipe: Path, settings: tuple[str, ...], files: tuple[Path, ...], without: tuple[str, ...], no_data: bool
) -> None:
    """Check a recipe and its data; load no model. Warnings leave the exit code at 0."""
    from ftp.errors import DataError
    from ftp.files import shown
    from ftp.stages.own_evals import bring_evals
    from ftp.stages.prepare_data import examples_of, summary
    from ftp.types import Example
    from ftp.yaml_source import dotted

    checked = load_recipe(recipe, load_plugins(files, without), settings)
    echo(f"{recipe}: the recipe is valid")
    for finding in checked.findings:
        echo(finding)
    for warning in _warnings(recipe, checked, settings):
        echo(warning)
    if no_data:
        return
    problems: list[str] = []
    for path, source in checked.data.sources():
        split = dotted(path[1:2] if path[1] == "train" else path[1:])
        if source.hub is not None:
            echo(f"{split}: {source.hub}: on the hub, read when the run begins")
            continue
        good = dropped = 0
        try:
            for place, row, found in examples_of(source):
                if isinstance(found, Example):
                    good += 1
                elif source.on_bad_row == "drop":
                    dropped += 1
                else:
                    problems.append(f"{shown(place, Path.cwd())}:{row.line}: {row.told(found)}")
        except DataError as error:
            problems += error.problems
            continue
        bad = f", {dropped} bad row{'s' * (dropped > 1)} will be dropped" if dropped else ""
        echo(f"{split}: {shown(Path(str(source.path)), Path.cwd())}: {good} rows{bad}")
    for name, size in checked.data.held_out.items():
        of = f"{size:.4g} of the rows" if isinstance(size, float) else f"{size} rows"
        echo(f"evals.{name}: {of} to train on, held out before validation and curators; `ftp data check` draws them")
    brought: list[str] = []
    try:
        for name, examples in bring_evals(checked.evaluate).items():
            echo(f"evals.{name}: {len(examples)} rows that an evaluator brings")
            if name in checked.data.evals:
                what = "an evaluator brings an eval set of this name; give yours another name"
                brought.append(f"data.evals.{name}: {what}")
    except DataError as error:
        brought = error.problems
    if problems or brought:
        raise DataError([*(summary(problems) if problems else ()), *brought])


def _warnings(file: Path, checked: Recipe, settings: tuple[str, ...]) -> Iterator[str]:
    """Yield what deserves a second look, each with its place in the recipe or in a `--set`."""
    from ftp.recipe.checks import warnings
    from ftp.yaml_source import override, parse

    document = parse(file.read_text(encoding="utf-8"), str(file))
    for setting in settings:
        override(document, setting)
    for path, what in warnings(checked):
        yield document.described(path, f"warning: {what}")
