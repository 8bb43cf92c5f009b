"""The order of the work, from recipe to report. The only module that knows it."""

from __future__ import annotations

from pathlib import Path

from ftp.files import shown
from ftp.plugins import Plugins
from ftp.progress import Progress
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory
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
from ftp.stages.dev_score import DevScore
from ftp.stages.evaluate import Evaluating, leaked_rows
from ftp.stages.load_model import apply_adapter, give_memory_back, load_base_model, load_tokenizer
from ftp.stages.prepare_data import notes_on_evals, prepare_data, read_prepared
from ftp.types import FinishedRun, LoadedModel, RollBack, Stop


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
        begin(directory, recipe, plugins, file, lock)
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


def _stages(work: Work, plugins: Plugins) -> None:
    """Do the stages that are not done yet."""
    with work.begun():
        corpus, ledger = rows_of(work)
        if not work.is_done("tuned"):
            loaded = base_model_of(work)
            # The base model answers before anything is trained: the only base that full training leaves, and a
            # rehearsal of the evaluation before the hours that training takes.
            self.evidence("base", loaded, corpus)
            loaded = self.train(loaded, corpus, ledger)
            self.evidence("tuned", loaded, corpus)
        self.evaluate(corpus)
        self.progress.stage("Writing reports")
        written = write_reports(self.directory, self.plugins, self.recipe.report)
        self.finish("report", files=[shown(path, self.directory.path) for path in written])

    def emit(self, event: str, **values: Any) -> Stop | RollBack | None:
        return self.watching.emit(event, **values)

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
            for text in notes_on_evals(ledger, self.recipe.data.curate):
                self.note(text)
            self.finish("data")
        # As it was before training: the trainer adds its own entries, once more when it has to begin again.
        return read_prepared(place, (*self.recipe.data.evals, *own)), Ledger.read(place / "ledger.parquet")

    def tokenise(self, corpus: Corpus, ledger: Ledger) -> None:
        """Settle before any weight is loaded which rows can be trained on; training finds the tokens in the cache."""
        tokenizer = load_tokenizer(self.recipe.model)
        if tokenizer is not None:
            advance = self.progress.stage("Tokenising", len(corpus.train) + len(corpus.validation))
            # The trainer writes its own entries when it trains.
            self.recipe.train.tokenise(corpus, tokenizer, copy.deepcopy(ledger), advance)

    def evidence(self, who: str, loaded: LoadedModel, corpus: Corpus) -> None:
        """What a model says to every eval set and how well it predicts the references, once, on disk."""
        if self.is_done(who):
            return
        trained = self.directory.path / "model" if who == "tuned" else None
        self.evaluating.ask(who, loaded, trained, corpus.evals)
        give_memory_back()
        self.finish(who)

    def train(self, loaded: LoadedModel, corpus: Corpus, ledger: Ledger) -> LoadedModel:
        adapter = self.recipe.adapter
        if self.is_done("train"):
            restored = adapter.restore(loaded, self.directory.path / "model")
            if restored is not None:
                return restored
            self.progress.note(f"'{adapter.used_as}' can't be restored from disk, so training is done again.")
        self.progress.stage("Training")
        loaded = apply_adapter(self.recipe, loaded, self.note)
        checkpoints = self.directory.path / "checkpoints"
        score = DevScore(self.recipe.evaluate, self.recipe.answers, loaded, corpus.validation)
        job = TrainingJob(loaded, corpus, ledger, checkpoints, self.recipe.seed, self.emit, score)
        result = self.recipe.train.train(job)
        with self.directory.new_directory("model") as target:
            adapter.save(result.model, target)
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
    """Have a finished run reported by these reporters, or by every installed one that needs no options."""
    run = finished(directory)
    return [reporter.report(run) for reporter in reporters or default_reporters(plugins)]


def default_reporters(plugins: Plugins) -> list[Reporter]:
    """Every installed reporter that needs no options."""
    found = []
    for offer in plugins.offers("reporters").values():
        if not any(field.is_required() for field in offer.component.model_fields.values()):
            reporter = offer.component()
            assert isinstance(reporter, Reporter)
            found.append(reporter)
    return found
