"""`ftp resume`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.options import REPLAY, TRACEBACK, load_plugins
from ftp.cli.run import at_work, tell


@click.command("resume")
@click.argument("run", type=click.Path(path_type=Path))
@REPLAY
@TRACEBACK
@click.option("--anyway", is_flag=True, help="Resume even though inputs have changed; the run records the changes.")
def command(run: Path, anyway: bool) -> None:
    """Resume an interrupted run from its own directory.

    It resumes exactly where it stopped. If the recipe, the data, the model, the packages or the plugins have changed
    since the run began, it says what has changed and stops.
    """
    from ftp import pipeline, recipe
    from ftp.runs.directory import RunDirectory
    from ftp.runs.lock import origin_of

    directory = RunDirectory(run)
    origin = origin_of(directory)
    plugins = load_plugins(tuple(map(Path, origin["plugins"])), tuple(origin["without"]))
    checked = recipe.read(run / "resolved.yaml", plugins)
    with at_work() as progress:
        finished = pipeline.resume(checked, plugins, directory, progress, anyway=anyway)
    tell(finished)
