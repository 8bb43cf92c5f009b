"""`ftp data`: what becomes of a recipe's rows before a model sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftp.cli.echo import echo
from ftp.cli.options import JSON, RECIPE, SET, for_writing, load_plugins, load_recipe, plugin_options, write_output

if TYPE_CHECKING:
    from ftp.recipe.model import Recipe
    from ftp_plugins.commands.data.preview import Preview

HTML = click.option(
    "--html", "html", type=click.Path(path_type=Path), callback=for_writing, help="Also write a page to this file."
)


@click.group("data")
def command() -> None:
    """Inspect a recipe's data: the fate of every row, duplicates, leaks, tokens. Loads no model."""


@command.command("check")
@RECIPE
@SET
@plugin_options
@JSON
@HTML
def check(
    recipe: Path,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    as_json: bool,
    html: Path | None,
) -> None:
    """Run the whole data stage and summarise it: totals, tokens, duplicates, leaks, examples."""
    from ftp_plugins.commands.data import preview_report

    checked, preview = _prepare(recipe, settings, files, without)
    summary = preview_report.summary(preview, checked)
    _report(summary, preview_report.show, as_json, html, preview_report.page)


@command.command("show")
@RECIPE
@click.argument("row")
@SET
@plugin_options
@JSON
@HTML
def show(
    recipe: Path,
    row: str,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    as_json: bool,
    html: Path | None,
) -> None:
    """Show a row as the trainer sees it: the rendered template, token by token, trained or masked.

    ROW is a row's id (file:line), or its number among the training rows, from 1.
    """
    from ftp_plugins.commands.data import row_report

    checked, preview = _prepare(recipe, settings, files, without)
    found = row_report.tokens_of(checked, preview, row)
    _report(found, row_report.show, as_json, html, row_report.page)


@command.command("why")
@RECIPE
@click.argument("row")
@SET
@plugin_options
@JSON
def why(
    recipe: Path,
    row: str,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the fate of a row, kept or not: its origin, the findings on it, and who dropped it and why.

    ROW is a row's id, file:line.
    """
    from ftp_plugins.commands.data import row_report

    _, preview = _prepare(recipe, settings, files, without)
    found = row_report.fate(preview, row)
    _report(found, row_report.show_fate, as_json)


@command.command("index")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The index, a .ftpindex file.")
def index(files: tuple[Path, ...], output: Path) -> None:
    """Write a hashed n-gram index of data files that must never be trained on.

    The index holds no text. `decontaminate` reads it: `against: [OUTPUT]`.
    """
    from ftp_plugins.curators.ngram_index import index_files

    made = index_files([str(file) for file in files], output)
    echo(f"{output}: {len(made):,} rows, {output.stat().st_size:,} bytes")


def _report(
    found: Any,
    show: Callable[[Any], None],
    as_json: bool,
    html: Path | None = None,
    page: Callable[[Any], str] | None = None,
) -> None:
    """Show what was found, or print it as JSON; also write it as a page if there is a place for that."""
    if html and page:
        write_output(html, page(found))
    if as_json:
        echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show(found)
        if html:
            echo(html)


def _prepare(
    recipe: Path, settings: tuple[str, ...], files: tuple[Path, ...], without: tuple[str, ...]
) -> tuple[Recipe, Preview]:
    from ftp.cli.run import quiet_libraries
    from ftp.cli.show import show
    from ftp_plugins.commands.data.preview import prepare_preview

    plugins = load_plugins(files, without)
    checked = load_recipe(recipe, plugins, settings)
    for finding in checked.findings:
        echo(finding, err=True)
    quiet_libraries()
    with show() as progress:
        begin: Callable[[str], Callable[[int], None]] = progress.stage
        return checked, prepare_preview(checked, plugins, recipe, begin)
