"""`ftp report`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.consent import TRUST, ask_for_run
from ftp.cli.echo import echo
from ftp.cli.options import TRACEBACK, load_plugins, plugin_options


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@plugin_options
@TRACEBACK
@TRUST
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def command(run: Path, files: tuple[Path, ...], without: tuple[str, ...], trust: bool, show: bool) -> None:
    """Write the reports of a finished run again from its run directory."""
    from ftp import recipe, results
    from ftp.provenance import trust as consents
    from ftp.runs.directory import RunDirectory
    from ftp.stages.reports import write_reports

    directory = RunDirectory(run)
    results.finished(directory)
    plugins = load_plugins(files, without)
    reporters = recipe.read(directory.place("resolved.yaml"), plugins).report
    ask_for_run(directory, consents.of_recipe(reporters), trust)
    with directory.lock():
        written = write_reports(directory, plugins, reporters)
    for path in written:
        echo(path)
    if not show:
        return
    pages = [path for path in written if path.suffix == ".html"]
    if not pages:
        echo("none of this run's reporters writes a page; name one that does under `report:`", err=True)
    for page in pages:
        if click.launch(str(page.absolute())) != 0:
            echo(f"no browser could be started; open {page.absolute()}", err=True)
