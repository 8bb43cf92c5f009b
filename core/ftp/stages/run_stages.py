"""The stages of a run that only a run has: its rows on disk, its model, its training, its answers and verdicts."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from ftp.components import EngineWork, Reporter, TrainingJob
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger, fates_in_words
from ftp.files import shown
from ftp.guard import call
from ftp.provenance.lock import lock_of, note_model
from ftp.stages import against
from ftp.stages.dev_score import DevScore
from ftp.stages.evaluate import leaked_rows
from ftp.stages.export import Exporting
from ftp.stages.load_model import apply_adapter, give_memory_back, load_base_model, restore_adapter
from ftp.stages.prepare_data import notes_on_evals, prepare_data, read_prepared
from ftp.stages.rehearsal import rehearse_reporters, rehearse_watchers
from ftp.stages.tokenise_rows import tokenise_rows
from ftp.stages.work import Work
from ftp.types import LoadedModel, TrainResult


def rows_of(work: Work) -> tuple[Corpus, Ledger]:
    """Return the rows that are left by the curators, and what became of the others."""
    if not work.is_done("train"):
        rehearse_watchers(work.recipe.watch or [])
    place, own = work.directory.path / "data", work.evaluating.own_evals
    if not work.is_done("data"):
        home, advance = work.file.absolute().parent, work.progress.stage("Reading rows")
        _, ledger = prepare_data(work.recipe, place, home, advance, own)
        ledger.write(place / "ledger.parquet")
        for line in notes_on_evals(ledger, work.recipe.data.curate):
            work.note(line)
        work.finish("data")
    # As it was before training: the trainer adds its own entries, once more when it has to begin again.
    corpus, ledger = read_prepared(place, (*work.recipe.data.evals, *own)), Ledger.read(place / "ledger.parquet")
    work.evaluating.check(corpus.evals)
    if not work.is_done("train"):
        told, spelled = tokenise_rows(work.recipe, corpus, ledger, work.progress.stage)
        for line in ([spelled] if spelled else []) + fates_in_words(told):
            work.note(line)
    return corpus, ledger


def base_model_of(work: Work) -> LoadedModel:
    """Load the base model, which has to be the one that the run began with."""
    work.progress.stage("Loading the model")
    recorded = lock_of(work.directory).get("model")
    loaded = load_base_model(work.recipe.model, work.recipe.adapter, work.note, recorded)
    if changed_model := note_model(work.directory, loaded, anyway=work.anyway):
        work.emit("anyway", changes=changed_model)
    return loaded


def ask(work: Work, who: str, loaded: LoadedModel, corpus: Corpus) -> None:
    """Write a model's answers to every eval set and its losses on the references to disk, unless they are there."""
    if not work.is_done(who):
        trained = work.directory.path / "model" if who == "tuned" else None
        work.evaluating.ask(who, loaded, trained, corpus.evals)
        give_memory_back()
        work.finish(who)


def ask_contestants(work: Work, corpus: Corpus) -> None:
    """Have the recipe's contestants answer the eval sets, one after the other, unless they have."""
    if work.recipe.against and not work.is_done("against"):
        against.ask_contestants(work.evaluating, work.recipe.against, corpus.evals)
        work.finish("against")


def rehearse(work: Work, corpus: Corpus, reporters: Sequence[Reporter]) -> None:
    """Try evaluators and reporters on the base model's answers alone, before the hours that training takes."""
    if not work.is_done("train"):
        evaluations = work.evaluating.rehearse(corpus)
        for _, what in rehearse_reporters(reporters, work.directory, evaluations):
            again = f"the run continues, and `ftp report {work.directory.path}` writes reports again"
            work.note(f"A reporter failed when it was tried before training: {what}; {again}.")


def train(work: Work, loaded: LoadedModel, corpus: Corpus, ledger: Ledger) -> LoadedModel:
    """Train the model and write the weights down, or restore those that are there."""
    from ftp.lm.training.torch_processes import current as processes

    recipe, directory = work.recipe, work.directory
    if work.is_done("train"):
        restored = restore_adapter(recipe.adapter, loaded, directory.path / "model")
        if restored is not None:
            return restored
        work.progress.note(f"'{recipe.adapter.used_as}' can't be restored from disk, so training is repeated.")
    work.progress.stage("Training")
    loaded = apply_adapter(recipe, loaded, work.note)
    checkpoints = directory.path / "checkpoints"
    score = DevScore(recipe.evaluate, recipe.answers, loaded, corpus.validation, work.note)
    emit = processes().start_training(directory.path, work.emit)
    engine = recipe.answers and recipe.answers.at_work(EngineWork(loaded, who="tuned", evals="train", note=work.note))
    record = directory.append_records
    job = TrainingJob(loaded, corpus, ledger, checkpoints, recipe.seed, emit, score, engine, record, directory.path)
    result = call(TrainResult, recipe.train.train, job)
    with directory.new_directory("model") as target:
        call(object, recipe.adapter.save, result.model, target)
        call(object, recipe.train.save, result.model, target)
        result.model.tokenizer.save_pretrained(target)
    ledger.write(directory.path / "ledger.parquet")
    summary = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "model"}
    directory.write_json("training.json", summary)
    give_memory_back()
    work.finish("train")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result.model


def train_along(work: Work) -> None:
    """Load and train the same model on the same rows as the first process of a run, and leave the result to it."""
    from ftp.lm.training.torch_processes import current as processes

    recipe, directory = work.recipe, work.directory.path
    corpus, ledger = read_prepared(directory / "data", ()), Ledger.read(directory / "data" / "ledger.parquet")
    loaded = load_base_model(recipe.model, recipe.adapter, work.progress.note)
    loaded = apply_adapter(recipe, loaded, work.progress.note)
    emit = processes().start_training(directory, lambda event, **values: None)
    score = DevScore(recipe.evaluate, recipe.answers, loaded, corpus.validation)
    job = TrainingJob(loaded, corpus, ledger, directory / "checkpoints", recipe.seed, emit, score)
    call(TrainResult, recipe.train.train, job)


def evaluate(work: Work, corpus: Corpus) -> None:
    """Have the evaluators compare the answers of both models."""
    if not work.is_done("evaluate"):
        ledger = Ledger.read(work.directory.path / "ledger.parquet")
        curators = work.recipe.data.curate
        leaked = leaked_rows(ledger.findings(), lambda id: ledger.row(id)["fate"] != "dropped", curators)
        work.evaluating.evaluate(corpus, leaked, work.emit)
        if work.recipe.against:
            work.evaluating.compare(work.recipe.against, corpus)
        work.finish("evaluate")


def export(work: Work) -> list[Path]:
    """Write the exports that the recipe names, and return their directories; one that was cut short is repeated."""
    exporting = Exporting(work.recipe, work.directory, work.progress.stage, work.note)
    written = []
    for exporter in work.recipe.export:
        stage = f"export {exporter.place}"
        if not work.is_done(stage):
            target = work.directory.path / "exports" / exporter.place
            work.finish(stage, directory=shown(exporting.export(exporter, target), work.directory.path))
        written.append(work.directory.path / work.directory.stages()[stage]["directory"])
    return written
