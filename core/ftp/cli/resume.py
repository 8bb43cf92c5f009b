"""`ftp resume`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.consent import TRUST, ask_for_run
from ftp.cli.launch import ON, launch, plugin_arguments
from ftp.cli.options import PLUGIN, REPLAY, TRACEBACK, load_plugins
from ftp.cli.processes import check_machines, processes, take_part
from ftp.cli.run import at_work, tell


@click.command("resume")
@click.argument("run", type=click.Path(path_type=Path))
@PLUGIN
@TRUST
@ON
@REPLAY
@TRACEBACK
@click.option("--anyway", is_flag=True, help="Resume even though inputs have changed; the run records the changes.")
def command(run: Path, files: tuple[Path, ...], trust: bool, placement: str | None, anyway: bool) -> None:
    """Resume an interrupted run from its own directory.

    It resumes exactly where it stopped. If the recipe, the data, the model, the packages or the plugins have changed
    since the run began, it says what has changed and stops.

    A run that began on this machine needs no permission. Before one from elsewhere is resumed, you are asked about
    every Python file, model code, address and environment variable that it would use; -p names the files yourself.
    """
    from ftp import pipeline, recipe
    from ftp.lm import allocator
    from ftp.provenance import trust as consents
    from ftp.provenance.lock import origin_of
    from ftp.runs.directory import RunDirectory

    allocator.restart_without_cache()
    directory = RunDirectory(run)
    origin = origin_of(directory)
    if not files:
        files = tuple(map(Path, origin["plugins"]))
        ask_for_run(directory, consents.of_files(files), trust)
    plugins = load_plugins(files, tuple(origin["without"]))
    checked = recipe.read(directory.place("resolved.yaml"), plugins)
    ask_for_run(directory, consents.of_recipe(checked), trust)
    if placement is not None:
        same = [*plugin_arguments(files, ()), "--trust", *(["--anyway"] if anyway else [])]
        launch(placement, plugins, checked.name, ["resume", str(run), *same])
    with at_work() as progress, processes(checked) as joined:
        check_machines(joined, checked, plugins, Path(origin["recipe"]), progress)
        if joined is not None and not joined.first:
            take_part(joined, checked, Path(origin["recipe"]), progress)
            return
        finished = pipeline.resume(checked, plugins, directory, progress, anyway=anyway)
    tell(finished)
