"""A run read back from its directory, as reporters and commands see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftp.data.examples import Corpus, read_examples
from ftp.data.ledger import Ledger
from ftp.errors import DataError, RecipeError, RunError
from ftp.recipe.yaml_source import parse
from ftp.runs import records
from ftp.runs.answers import read_answers
from ftp.runs.directory import RunDirectory
from ftp.runs.exports import read_exports
from ftp.runs.lock import lock_of
from ftp.types import Evaluation, EvalView, FinishedRun


def finished(directory: RunDirectory) -> FinishedRun:
    """Read a run back from its directory.

    Raises:
        RunError: it is not a run, it has not been evaluated yet, or one of its files is missing or damaged.
    """
    try:
        return _read(directory)
    except DataError as error:
        raise RunError(str(error)) from None


def _read(directory: RunDirectory) -> FinishedRun:
    evaluations = evaluations_of(directory)
    if evaluations is None:
        what = "the run is not finished" if (directory.path / "run.lock.json").is_file() else "not a run directory"
        raise RunError(f"{directory.path}: {what}")
    recipe = resolved_of(directory)
    # Those of the recipe first, then those that evaluators brought; one that measures the model has none.
    files = {name: directory.place(_eval_file(name)) for name in recipe["data"]["evals"]}
    brought = {found.evals: directory.place(_eval_file(found.evals)) for found in evaluations}
    files |= {name: file for name, file in brought.items() if file.is_file()}
    sets = {name: read_examples(file) for name, file in files.items()}
    nothing = read_examples(directory.place("data/validation.arrow"))
    corpus = Corpus(nothing, nothing, sets)
    return FinishedRun(
        directory=directory.path,
        name=directory.name,
        id=directory.id,
        recipe=recipe,
        lock=lock_of(directory),
        training=directory.read_json("training.json", records.Training) or {},
        evaluations=evaluations,
        views=[view_of(directory, corpus, name) for name in sets],
        events=directory.events(),
        reports=[directory.path / name for name in directory.stages().get("report", {}).get("files", ())],
        exports=read_exports(directory.path),
        ledger_totals=Ledger.read(directory.place("ledger.parquet")).totals(),
    )


def evaluations_of(directory: RunDirectory) -> list[Evaluation] | None:
    """Return the results of a run's evaluators, or None if it has not been evaluated yet.

    Raises:
        RunError: the file is damaged.
    """
    found = directory.read_json("evaluation.json", list[records.EvaluationRecord], records.MOST_BYTES_OF_SCORES)
    return None if found is None else [records.evaluation(record) for record in found]


def resolved_of(directory: RunDirectory) -> dict[str, Any]:
    """Return the resolved recipe of a run, as far as it can be checked without its plugins.

    Raises:
        RunError: the file is missing or damaged.
    """
    file, text = directory.path / "resolved.yaml", directory.read_text("resolved.yaml")
    try:
        if text is None:
            raise ValueError("missing")
        document = parse(text, str(file))
        if document.problems:
            raise ValueError(document.problems[0].removeprefix(f"{file}:"))
        recipe: dict[str, Any] = records.checked(records.Resolved, document.data)
    except RecipeError as error:
        raise RunError(f"{error.problems[0]}; put the file back from a copy") from None
    except ValueError as error:
        raise RunError(f"{file}: {error}; put it back from a copy") from None
    return recipe


def view_of(directory: RunDirectory, corpus: Corpus, name: str, tuned: str = "tuned") -> EvalView:
    """Return one eval set with the results of both models.

    Raises:
        RunError: a file with answers has not as many rows as the eval set.
        DataError: it is missing or damaged.
    """
    examples = list(corpus.evals[name])
    found = []
    for who in ("base", tuned):
        answers, losses = read_answers(answers_file(directory, who, name))
        if len(losses) != len(examples):
            what = f"has {len(losses)} rows, and its eval set {len(examples)}; put it back from a copy"
            raise RunError(f"{answers_file(directory, who, name)}: {what}")
        found.append((answers, losses))
    (base_answers, base_losses), (tuned_answers, tuned_losses) = found
    return EvalView(name, examples, base_answers, tuned_answers, base_losses, tuned_losses, directory=directory.path)


def answers_file(directory: RunDirectory, who: str, name: str) -> Path:
    """Return the file with the answers of `who` (`base` or `tuned`) to an eval set."""
    return directory.place(f"answers/{who}-{name}.parquet")


def _eval_file(name: str) -> str:
    return f"data/eval-{name}.arrow"
