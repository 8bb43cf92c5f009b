"""`ftp report`."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from ftp.cli.options import load_plugins, plugin_options


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@plugin_options
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def command(run: Path, files: tuple[Path, ...], without: tuple[str, ...], show: bool) -> None:
    """Write the reports of a finished run again, from what the run directory holds."""
    from ftp import pipeline, recipe, results
    from ftp.rundir import RunDirectory

    directory = RunDirectory(run)
    results.finished(directory)
    plugins = load_plugins(files, without)
    reporters = recipe.read(run / "resolved.yaml", plugins).report
    with directory.lock():
        for path in pipeline.write_reports(directory, plugins, reporters):
            click.echo(path)
            if show and path.suffix == ".html":
                webbrowser.open(path.absolute().as_uri())
