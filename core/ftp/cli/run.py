"""`ftp run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ftp.cli.options import RECIPE, RUNS, SET, load_plugins, load_recipe, plugin_options


@click.command("run")
@RECIPE
@SET
@plugin_options
@RUNS
@click.option("--new", is_flag=True, help="Begin a new run even when an equal one is there.")
def command(
    recipe: Path, settings: tuple[str, ...], files: tuple[Path, ...], without: tuple[str, ...], root: Path, new: bool
) -> None:
    """Do what a recipe says: data, training, evaluation, report.

    An equal run that was interrupted goes on after its last finished stage; one that is finished is not done again.
    """
    from ftp import pipeline
    from ftp.cli.show import show, three_lines

    plugins = load_plugins(files, without)
    checked = load_recipe(recipe, plugins, settings)
    quiet_libraries()
    try:
        with show() as progress:
            finished = pipeline.run(checked, plugins, recipe, root, progress, new=new)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; `ftp run {recipe}` goes on after the last finished stage.", err=True)
        sys.exit(130)
    for line in three_lines(finished):
        click.echo(line)
    report = finished.directory / "report.html"
    click.echo(report if report.exists() else finished.directory)


def quiet_libraries() -> None:
    """Keep the libraries' own bars and notices out of our output, and their notices to their own developers."""
    import logging as standard_logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch)\b")
    standard_logging.getLogger("bitsandbytes").setLevel(standard_logging.ERROR)
    for name, value in {
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "BITSANDBYTES_NOWELCOME": "1",
    }.items():
        os.environ.setdefault(name, value)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
