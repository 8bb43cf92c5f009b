"""The order of the work, from recipe to report. The only module that knows it."""

from __future__ import annotations

from pathlib import Path

from ftp.files import shown
from ftp.plugins import Plugins
from ftp.progress import Progress
from ftp.provenance.fingerprints import fingerprints
from ftp.provenance.lock import origin_of
from ftp.provenance.start import accept_changes, begin, run_directory
from ftp.recipe.model import Recipe
from ftp.results import finished
from ftp.runs.directory import RunDirectory
from ftp.stages.export import refuse_unproven, rehearse_exports
from ftp.stages.reports import default_reporters, write_reports
from ftp.stages.run_stages import (
    ask,
    ask_contestants,
    base_model_of,
    evaluate,
    export,
    rehearse,
    rows_of,
    train,
    train_along,
)
from ftp.stages.work import Work
from ftp.types import FinishedRun


def run(
    recipe: Recipe, plugins: Plugins, file: Path, root: Path, progress: Progress, *, new: bool = False
) -> FinishedRun:
    """Do what the recipe says, or finish an equal run that was interrupted, and return the finished run.

    Args:
        recipe: validated.
        file: the recipe's file; copied into the run directory.
        root: directory that holds the runs.
        new: begin a new run even if an equal one exists.

    Raises:
        FtpError: with what the user can do about it.
    """
    lock = fingerprints(recipe, plugins)
    directory = run_directory(root, recipe.name, lock, new, progress.note)
    with directory.lock():
        begin(directory, recipe, plugins, file, lock, progress.note)
        progress.directory = directory.path
        work = Work(recipe, file, directory, progress)
        if work.is_done("report"):
            progress.note(f"This recipe has been run on the same inputs: {directory.path}. --new runs it again.")
        else:
            _stages(work, plugins)
    return finished(directory)


def resume(
    recipe: Recipe, plugins: Plugins, directory: RunDirectory, progress: Progress, *, anyway: bool = False
) -> FinishedRun:
    """Finish an interrupted run and return it.

    Args:
        recipe: read from the run's own resolved.yaml.
        anyway: continue even if the recipe, the data, the model, packages or plugins have changed since the run began;
            the changes are recorded in its lock and its events.

    Raises:
        RunError: something has changed, or another process is working on the run.
        FtpError: with what the user can do about it.
    """
    with directory.lock():
        progress.directory = directory.path
        if "report" in directory.stages():
            progress.note(f"This run is finished: {directory.path}")
        else:
            found = accept_changes(directory, recipe, plugins, anyway, progress.note)
            file = Path(origin_of(directory)["recipe"])
            _stages(Work(recipe, file, directory, progress, found, anyway), plugins)
    return finished(directory)


def join_training(recipe: Recipe, file: Path, directory: RunDirectory, progress: Progress) -> None:
    """Take part in the training of a run that another process leads and writes."""
    train_along(Work(recipe, file, directory, progress))


def _stages(work: Work, plugins: Plugins) -> None:
    """Do the stages that are not done yet."""
    with work.begun():
        corpus, ledger = rows_of(work)
        # Contestants before training: a server that can't be asked shows before the hours, and memory is free.
        ask_contestants(work, corpus)
        if not work.is_done("tuned"):
            loaded = base_model_of(work)
            if not work.is_done("train"):
                rehearse_exports(work.recipe.export, loaded, work.recipe.adapter, work.directory.path)
            # The base model answers before anything is trained: the only base that full training leaves, and a
            # rehearsal of the evaluation before the hours that training takes.
            ask(work, "base", loaded, corpus)
            rehearse(work, corpus, work.recipe.report or default_reporters(plugins))
            loaded = train(work, loaded, corpus, ledger)
            ask(work, "tuned", loaded, corpus)
            del loaded
        evaluate(work, corpus)
        exports = export(work)
        work.progress.stage("Writing reports")
        written = write_reports(work.directory, plugins, work.recipe.report)
        work.finish("report", files=[shown(path, work.directory.path) for path in written])
    refuse_unproven(exports)
