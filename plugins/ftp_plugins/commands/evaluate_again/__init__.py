"""`ftp eval`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.consent import TRUST, ask_for_recipe, ask_for_run
from ftp.cli.options import REPLAY, RUNS, SET, TRACEBACK, load_plugins, load_recipe, plugin_options


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-e",
    "--evaluate",
    "file",
    type=click.Path(path_type=Path),
    help="Recipe whose evaluators and eval sets are used. Default: the run's own.",
)
@SET
@plugin_options
@RUNS
@REPLAY
@TRACEBACK
@TRUST
def command(
    model: Path,
    file: Path | None,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    root: Path,
    trust: bool,
) -> None:
    """Evaluate a trained model again: MODEL is a run, or a model directory. Nothing is trained.

    With -e, the `evaluate:`, `answers:`, `report:` and eval sets of another recipe are used. A model directory requires
    it, and is compared with that recipe's base model. The results go into a new directory, evals/ below the run or
    below --runs. Answers that the same model gave before are not generated again.
    """
    from ftp.cli.run import quiet_libraries, tell
    from ftp.cli.show import show
    from ftp.errors import RecipeError
    from ftp.provenance.trust import of_recipe
    from ftp.recipe import read
    from ftp.runs.directory import RunDirectory
    from ftp_plugins.commands.evaluate_again.evaluate_trained import evaluate_again

    if settings and file is None:
        raise RecipeError(["--set changes the recipe that -e names; name one"])
    plugins = load_plugins(files, without)
    asked = load_recipe(file, plugins, settings) if file else None
    if asked is not None:
        ask_for_recipe(asked, str(file), trust)
    if (model / "run.lock.json").is_file():
        run = RunDirectory(model)
        trained_by = read(run.place("resolved.yaml"), plugins)
        taken = [trained_by.model, trained_by.adapter, *([] if asked else [*trained_by.evaluate, *trained_by.report])]
        ask_for_run(run, of_recipe(taken), trust)
    quiet_libraries()
    with show() as progress:
        found = evaluate_again(model, asked, file, root, plugins, progress)
    tell(found)
