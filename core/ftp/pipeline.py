"""The order of the work, from recipe to report. The only module that knows it."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ftp.components import Reporter, TrainingJob
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.errors import ComponentError
from ftp.files import shown
from ftp.guard import call, described
from ftp.plugins import Plugins
from ftp.progress import Progress
from ftp.recipe.checks import warnings
from ftp.recipe.model import Recipe
from ftp.recipe.slots import Slots
from ftp.recipe.yaml_source import dotted
from ftp.runs.directory import RunDirectory
from ftp.runs.events import EventLog
from ftp.runs.finished import finished
from ftp.runs.lock import (
    accept,
    changed,
    changes,
    equal_run,
    fingerprints,
    inputs_of,
    note_model,
    note_origin,
    origin_of,
    unfinished_run,
)
from ftp.stages.control_tokens import find_control_tokens
from ftp.stages.dev_score import DevScore
from ftp.stages.evaluate import Evaluating, leaked_rows
from ftp.stages.load_model import apply_adapter, give_memory_back, load_base_model, load_tokenizer
from ftp.stages.prepare_data import prepare_data, read_prepared
from ftp.stages.rehearsal import rehearse_reporters, rehearse_watchers
from ftp.types import FinishedRun, LoadedModel, RollBack, Stop, TrainResult


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
    equal = None if new else equal_run(root, recipe.name, lock, progress.note)
    if equal is None and not new:
        _note_unfinished(unfinished_run(root, recipe.name, progress.note), lock, progress)
    directory = equal or RunDirectory.create(root, recipe.name)
    with directory.lock():
        if directory.read_json("run.lock.json") is None:
            _begin(directory, recipe, plugins, file, lock)
        progress.directory = directory.path
        # As they were written: what was read again is equal, but an integer may have become a float.
        inputs = inputs_of(directory.read_json("run.lock.json"))
        if directory.is_done("report", inputs):
            progress.note(f"This recipe has been run on the same inputs: {directory.path}. --new runs it again.")
        else:
            _Work(recipe, plugins, file, directory, inputs, progress).do()
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
            return finished(directory)
        lock, recorded = fingerprints(recipe, plugins), directory.read_json("run.lock.json")
        file = Path(origin_of(directory)["recipe"])
        found = changes(recorded, lock)
        if found and not anyway:
            raise changed(directory, found)
        if found:
            accept(directory, lock, found)
        if file.is_file() and file.read_text(errors="replace") != (directory.path / "recipe.yaml").read_text():
            progress.note(f"{file} has changed since; the run continues with the recipe that it began with.")
        if lock["hardware"] != recorded["hardware"]:
            progress.note("This run began on another machine or another Python: losses may differ in the last digits.")
        inputs = inputs_of(directory.read_json("run.lock.json"))
        _Work(recipe, plugins, file, directory, inputs, progress, found, anyway).do()
    return finished(directory)


def _begin(directory: RunDirectory, recipe: Recipe, plugins: Plugins, file: Path, lock: Mapping[str, Any]) -> None:
    """Record what a run is made from; once the last of these files is written, the directory is a run."""
    directory.write_text("recipe.yaml", file.read_text(encoding="utf-8"))
    resolved = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
    directory.write_text("resolved.yaml", resolved)
    note_origin(directory, file, plugins)
    directory.write_json("run.lock.json", lock)


def _note_unfinished(directory: RunDirectory | None, lock: Mapping[str, Any], progress: Progress) -> None:
    if directory is not None:
        found = changes(directory.read_json("run.lock.json"), lock)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        why = f"{found[0]}{more}" if found else "it was resumed with changed inputs"
        progress.note(
            f"A new run begins. There is an unfinished one of this name with other inputs ({why}); "
            f"`ftp resume {directory.path}` resumes it."
        )


class _Work:
    """A run in progress. Each stage is done once for the same inputs.

    Args:
        changed: what has changed since the run began.
    """

    def __init__(
        self,
        recipe: Recipe,
        plugins: Plugins,
        file: Path,
        directory: RunDirectory,
        inputs: Mapping[str, str],
        progress: Progress,
        changed: Sequence[str] = (),
        anyway: bool = False,
    ) -> None:
        self.recipe, self.plugins, self.file, self.directory = recipe, plugins, file, directory
        self.inputs, self.progress, self.changed, self.anyway = inputs, progress, changed, anyway
        self.evaluating = Evaluating(recipe.evaluate, recipe.answers, directory, progress.stage)
        self.events = EventLog(directory, recipe.watch or [], progress.event)

    def do(self) -> None:
        place = {"name": self.directory.name, "id": self.directory.id, "directory": str(self.directory.path)}
        self.emit("start", **place, recipe=str(self.file), inputs=self.inputs)
        if self.changed:
            self.emit("anyway", changes=self.changed)
        for path, what in warnings(self.recipe):
            self.note(f"{dotted(path)}: {what}")
        try:
            self.stages()
        finally:
            self.emit("end")

    def stages(self) -> None:
        if not self.is_done("train"):
            rehearse_watchers(self.recipe.watch or [])
        corpus, ledger = self.data()
        self.evaluating.check(corpus.evals)
        if not self.is_done("train"):
            self.tokenise(corpus, ledger)
        if not self.is_done("tuned"):
            self.progress.stage("Loading the model")
            loaded = load_base_model(self.recipe.model, self.recipe.adapter, self.note)
            if changed_model := note_model(self.directory, loaded, anyway=self.anyway):
                self.emit("anyway", changes=changed_model)
            # The base model answers before anything is trained: full training leaves no other base, and this is a
            # rehearsal of the evaluation before the hours that training takes.
            self.evidence("base", loaded, corpus)
            if not self.is_done("train"):
                self.rehearse(corpus)
            loaded = self.train(loaded, corpus, ledger)
            self.evidence("tuned", loaded, corpus)
        self.evaluate(corpus)
        self.progress.stage("Writing reports")
        written = write_reports(self.directory, self.plugins, self.recipe.report)
        self.finish("report", files=[shown(path, self.directory.path) for path in written])

    def emit(self, event: str, **values: Any) -> Stop | RollBack | None:
        return self.events.emit(event, **values)

    def note(self, text: str) -> None:
        self.emit("note", text=text)

    def is_done(self, stage: str) -> bool:
        return self.directory.is_done(stage, self.inputs)

    def finish(self, stage: str, **more: Any) -> None:
        self.directory.finish(stage, self.inputs, **more)

    def data(self) -> tuple[Corpus, Ledger]:
        place, own = self.directory.path / "data", self.evaluating.own_evals
        if not self.is_done("data"):
            home, advance = self.file.absolute().parent, self.progress.stage("Reading rows")
            _, ledger = prepare_data(self.recipe, place, home, advance, own)
            ledger.write(place / "ledger.parquet")
            self.finish("data")
        # As it was before training: the trainer adds its own entries, once more when it has to begin again.
        return read_prepared(place, (*self.recipe.data.evals, *own)), Ledger.read(place / "ledger.parquet")

    def tokenise(self, corpus: Corpus, ledger: Ledger) -> None:
        """Determine which rows can be trained on before any weights are loaded, and cache their tokens for training."""
        tokenizer = load_tokenizer(self.recipe.model)
        if tokenizer is not None:
            if spelled := find_control_tokens(corpus, tokenizer, ledger):
                self.note(spelled)
            advance = self.progress.stage("Tokenising", len(corpus.train) + len(corpus.validation))
            # The trainer writes its own entries when it trains.
            call(object, self.recipe.train.tokenise, corpus, tokenizer, copy.deepcopy(ledger), advance)

    def evidence(self, who: str, loaded: LoadedModel, corpus: Corpus) -> None:
        """Write a model's answers to every eval set and its losses on the references to disk, unless they are there."""
        if self.is_done(who):
            return
        trained = self.directory.path / "model" if who == "tuned" else None
        self.evaluating.ask(who, loaded, trained, corpus.evals)
        give_memory_back()
        self.finish(who)

    def rehearse(self, corpus: Corpus) -> None:
        """Try evaluators and reporters on the base model's answers alone, before the hours that training takes."""
        evaluations = self.evaluating.rehearse(corpus)
        reporters = self.recipe.report or default_reporters(self.plugins)
        for _, what in rehearse_reporters(reporters, self.directory, evaluations):
            again = f"the run goes on, and `ftp report {self.directory.path}` writes reports again"
            self.note(f"A reporter failed when it was tried before training: {what}; {again}.")

    def train(self, loaded: LoadedModel, corpus: Corpus, ledger: Ledger) -> LoadedModel:
        adapter = self.recipe.adapter
        if self.is_done("train"):
            restored = call(LoadedModel | None, adapter.restore, loaded, self.directory.path / "model")
            if restored is not None:
                return restored
            self.progress.note(f"'{adapter.used_as}' can't be restored from disk, so training is repeated.")
        self.progress.stage("Training")
        loaded = apply_adapter(self.recipe, loaded, self.note)
        checkpoints = self.directory.path / "checkpoints"
        score = DevScore(self.recipe.evaluate, self.recipe.answers, loaded, corpus.validation)
        job = TrainingJob(loaded, corpus, ledger, checkpoints, self.recipe.seed, self.emit, score)
        result = call(TrainResult, self.recipe.train.train, job)
        with self.directory.new_directory("model") as target:
            call(object, adapter.save, result.model, target)
            result.model.tokenizer.save_pretrained(target)
        ledger.write(self.directory.path / "ledger.parquet")
        summary = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "model"}
        self.directory.write_json("training.json", summary)
        give_memory_back()
        self.finish("train")
        shutil.rmtree(checkpoints, ignore_errors=True)
        return result.model

    def evaluate(self, corpus: Corpus) -> None:
        if self.is_done("evaluate"):
            return
        ledger = Ledger.read(self.directory.path / "ledger.parquet")
        curators = self.recipe.data.curate
        leaked = leaked_rows(ledger.findings(), lambda id: ledger.row(id)["fate"] != "dropped", curators)
        self.evaluating.evaluate(corpus, leaked, self.emit)
        self.finish("evaluate")


def write_reports(directory: RunDirectory, plugins: Plugins, reporters: Sequence[Reporter] = ()) -> list[Path]:
    """Write reports of a finished run with these reporters, or with every installed one that needs no options."""
    run = finished(directory)
    return [reported(reporter, run) for reporter in reporters or default_reporters(plugins)]


def reported(reporter: Reporter, run: FinishedRun) -> Path:
    """Write a report and return its path.

    Raises:
        ComponentError: the reporter failed, or returned no path of something that is there.
    """
    path = call(Path, reporter.report, run)
    if not path.exists():
        raise ComponentError(f"{described(reporter)}: report returned {path}, and nothing is there")
    return path


def default_reporters(plugins: Plugins) -> list[Reporter]:
    """Every installed reporter that needs no options."""
    return Slots(plugins).without_options(Reporter)
