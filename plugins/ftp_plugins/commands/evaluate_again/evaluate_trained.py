"""Evaluation without training, of an earlier run's model or of any model directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from ftp import recipe
from ftp.components import Reporter
from ftp.data.examples import Corpus, Examples, read_examples, write_examples
from ftp.data.ledger import Ledger
from ftp.errors import DataError, ModelError, RunError
from ftp.files import shown
from ftp.guard import call
from ftp.plugins import Plugins
from ftp.progress import Progress
from ftp.provenance.fingerprints import fingerprint_of, fingerprints
from ftp.provenance.lock import lock_of, note_model
from ftp.provenance.trust import allow, of_recipe
from ftp.recipe.model import Data, Recipe
from ftp.records.schemas import Training
from ftp.results import finished
from ftp.runs.directory import RunDirectory
from ftp.stages.against import ask_contestants
from ftp.stages.evaluate import Evaluating, leaked_rows
from ftp.stages.load_model import load_base_model, restore_adapter
from ftp.stages.prepare_data import prepare_data
from ftp.stages.reports import default_reporters, write_reports
from ftp.types import FinishedRun, LoadedModel


def evaluate_again(
    target: Path, asked: Recipe | None, file: Path | None, root: Path, plugins: Plugins, progress: Progress
) -> FinishedRun:
    """Evaluate a trained model; the result is a directory of its own, `evals/<time>/`.

    Args:
        target: a run, or the directory of a model or an adapter in Hugging Face's layout.
        asked: the recipe whose `evaluate:`, `answers:`, `report:` and eval sets are used; None for those of the run.
            For a model directory it also defines the base model.
        file: the file of that recipe.
        root: directory for the result of a model directory; that of a run goes below the run.

    Raises:
        RunError: the target is neither, or a run without a trained model, or of another base model.
        ModelError: the trained weights don't fit the base model.
    """
    if (target / "run.lock.json").is_file():
        return _RunTarget(target, asked, file, plugins, progress).do()
    if not any(target.glob("*config.json")):
        raise RunError(f"{target}: neither a run nor a model directory")
    if asked is None or file is None:
        raise RunError(f"{target}: is a model directory; name a recipe with -e for its base model and its eval sets")
    return _DirectoryTarget(target, asked, file, root, plugins, progress).do()


class _Target:
    """The steps common to runs and model directories."""

    asked: Recipe
    evals: dict[str, Examples]
    leaked: set[str]

    def __init__(self, place: Path, asked: Recipe, plugins: Plugins, progress: Progress) -> None:
        self.asked, self.plugins, self.progress = asked, plugins, progress
        self.directory = RunDirectory.create(place, "evals")
        self.evaluating = Evaluating(asked.evaluate, asked.answers, self.directory, progress.stage, self.note)

    def do(self) -> FinishedRun:
        nothing = write_examples(self.directory.path / "data" / "validation.arrow", [])
        ledger = self.look_up()
        ledger.write(self.directory.path / "ledger.parquet")
        self.evaluating.check(self.evals)
        ask_contestants(self.evaluating, self.asked.against, self.evals)
        for who, loaded, trained in self.models():
            self.evaluating.ask(who, loaded, trained, self.evals)
            del loaded  # there may be room for one at a time
        self.evaluating.evaluate(Corpus(nothing, nothing, self.evals), self.leaked, self.directory.emit)
        if self.asked.against:
            self.evaluating.compare(self.asked.against, Corpus(nothing, nothing, self.evals))
        self.progress.stage("Writing reports")
        reporters = self.asked.report or default_reporters(self.plugins)
        written = [path for reporter in reporters for path in self.report(reporter)]
        self.directory.finish("evaluate", {})
        self.directory.finish("report", {}, files=[shown(path, self.directory.path) for path in written])
        return finished(self.directory)

    def look_up(self) -> Ledger:
        """Find the eval sets and the rows of them that leaked."""
        raise NotImplementedError

    def models(self) -> Iterator[tuple[str, LoadedModel, Path | None]]:
        """Yield the base and the tuned model, one at a time, and the directory of its trained weights."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        self.directory.emit("note", text=text)
        self.progress.note(text)

    def write_recipe(self, whole: Recipe, hashed: Data) -> None:
        """Write the recipe down, and the lock with the bytes of the data that was read."""
        resolved = yaml.safe_dump(whole.resolved(), sort_keys=False, allow_unicode=True)
        self.directory.write_text("resolved.yaml", resolved)
        if failure := allow(self.directory, of_recipe(whole)):
            self.note(f"`ftp report` may ask for your consent, as the run can't be signed: {failure}")
        lock = fingerprints(whole.model_copy(update={"data": hashed}), self.plugins)
        self.directory.write_json("run.lock.json", {**lock, "recipe": whole.resolved()})

    def read_evals(self, file: Path) -> Ledger:
        """Read the eval sets of the recipe."""
        alone = self.asked.model_copy(update={"data": _evals_alone(self.asked)})
        advance = self.progress.stage("Reading rows")
        place, home = self.directory.path / "data", file.absolute().parent
        corpus, ledger = prepare_data(alone, place, home, advance, self.evaluating.own_evals)
        self.evals = dict(corpus.evals)
        return ledger

    def report(self, reporter: Reporter) -> list[Path]:
        try:
            return write_reports(self.directory, self.plugins, [reporter])
        except Exception as error:  # a reporter may need what only a training leaves, and raises anything
            self.progress.note(f"no report by '{type(reporter).__name__}': {type(error).__name__}: {error}")
            return []


class _RunTarget(_Target):
    """The model of a run: base model, adapter and training data are the run's."""

    def __init__(
        self, run: Path, asked: Recipe | None, file: Path | None, plugins: Plugins, progress: Progress
    ) -> None:
        if "train" not in RunDirectory(run).stages():
            raise RunError(f"{run}: no trained model in it; `ftp run` with its recipe resumes it")
        self.run, self.file = run, file
        self.trained_by = recipe.read(RunDirectory(run).place("resolved.yaml"), plugins)
        RunDirectory(run).check()
        super().__init__(run, asked or self.trained_by, plugins, progress)
        training = RunDirectory(run).read_json("training.json", Training)
        if training is None:
            raise RunError(f"{run / 'training.json'}: missing; restore it from a copy")
        self.directory.write_json("training.json", training)

    def look_up(self) -> Ledger:
        mine = self.asked.model_copy(update={"model": self.trained_by.model, "adapter": self.trained_by.adapter})
        if self.file is not None:
            self.write_recipe(mine, _evals_alone(self.asked))
            ledger = self.read_evals(self.file)
            self.leaked = self.leaks()
            return ledger
        self.write_recipe(mine, _evals_alone(self.asked).model_copy(update={"evals": {}}))
        self.evals = {}
        for name in (*self.asked.data.evals, *self.evaluating.own_evals):
            known = read_examples(RunDirectory(self.run).place(f"data/eval-{name}.arrow"))
            self.evals[name] = write_examples(self.directory.path / "data" / f"eval-{name}.arrow", known)
        ledger = Ledger.read(self.run / "ledger.parquet")
        curators = self.asked.data.curate
        self.leaked = leaked_rows(ledger.findings(), lambda id: ledger.row(id)["fate"] != "dropped", curators)
        return ledger

    def leaks(self) -> set[str]:
        """Return the eval rows similar to a training row, as found by the curators that guard eval sets."""
        train, validation = (read_examples(self.run / "data" / f"{part}.arrow") for part in ("train", "validation"))
        lines: dict[str, set[int]] = {}
        for id in (*train.column("id"), *validation.column("id")):
            source, _, line = id.rpartition(":")
            lines.setdefault(source, set()).add(int(line))
        ledger = Ledger()
        for source in lines:
            for line in sorted(lines[source]):
                ledger.add(source, line, "train", "domain")
        for guard in self.asked.data.curate:
            if guard.guards_evals:
                try:
                    call(Corpus, guard.curate, Corpus(train, validation, self.evals), ledger)
                except DataError as error:  # it would stop a run; here training is over, and what it found counts
                    self.note(str(error))
        # Whatever the guard would have dropped, the model has seen.
        return leaked_rows(ledger.findings(), lambda id: True, self.asked.data.curate)

    def models(self) -> Iterator[tuple[str, LoadedModel, Path | None]]:
        self.progress.stage("Loading the model")
        model, adapter, trained = self.trained_by.model, self.trained_by.adapter, self.run / "model"
        loaded = load_base_model(model, adapter, self.note)
        before = fingerprint_of(lock_of(RunDirectory(self.run)))
        if before and before != loaded.fingerprint:
            raise RunError(f"{self.run}: the base model {loaded.name} is not the one that it was trained on")
        note_model(self.directory, loaded)
        yield "base", loaded, None
        tuned = restore_adapter(adapter, loaded, trained)
        if tuned is None:
            raise ModelError(f"'{adapter.used_as}' can't be restored from disk, so the run can't be evaluated again")
        yield "tuned", tuned, trained


class _DirectoryTarget(_Target):
    """A model directory, compared with the base model of a recipe."""

    def __init__(
        self, target: Path, asked: Recipe, file: Path, root: Path, plugins: Plugins, progress: Progress
    ) -> None:
        super().__init__(root, asked, plugins, progress)
        self.target, self.file = target.absolute(), file

    def look_up(self) -> Ledger:
        self.write_recipe(self.asked, _evals_alone(self.asked))
        self.note(f"What {self.target} was trained on isn't known: rows of the eval sets may be among it.")
        self.leaked = set()
        return self.read_evals(self.file)

    def models(self) -> Iterator[tuple[str, LoadedModel, Path | None]]:
        model, adapter = self.asked.model, self.asked.adapter
        is_adapter = call(bool, adapter.can_restore, self.target)
        if not is_adapter and "id" not in type(model).model_fields:
            raise ModelError(f"'{model.used_as}' has no `id:`, so it can't load {self.target}")
        self.progress.stage("Loading the model")
        loaded = load_base_model(model, adapter if is_adapter else None, self.note)
        note_model(self.directory, loaded)
        yield "base", loaded, None
        if not is_adapter:
            del loaded
            whole = model.model_copy(update={"id": str(self.target)})
            yield "tuned", load_base_model(whole, None, self.note), None
            return
        tuned = restore_adapter(adapter, loaded, self.target)
        if tuned is None:
            raise ModelError(f"'{adapter.used_as}' can't take the adapter in {self.target}")
        yield "tuned", tuned, self.target


def _evals_alone(whole: Recipe) -> Data:
    """Return the data block of a recipe with only its eval sets, and the rows that they are held out of."""
    train = whole.data.train if whole.data.held_out else []
    return whole.data.model_copy(update={"train": train, "validation": None, "curate": []})
