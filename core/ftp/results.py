"""A run read back from its directory, as reporters and commands see it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ftp.data.examples import Corpus, read_examples
from ftp.data.ledger import Ledger
from ftp.errors import DataError, RecipeError, RunError
from ftp.provenance.lock import lock_of
from ftp.records import schemas
from ftp.records.answers import read_answers, repeated
from ftp.records.exports import read_exports
from ftp.runs.directory import RunDirectory
from ftp.types import Evaluation, EvalView, FinishedRun, Usage
from ftp.yaml_source import parse


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
    asked = ["base", "tuned", *(contestant(name) for name in recipe.get("against") or {})]
    return FinishedRun(
        directory=directory.path,
        name=directory.name,
        id=directory.id,
        recipe=recipe,
        lock=lock_of(directory),
        training=directory.read_json("training.json", schemas.Training) or {},
        evaluations=evaluations,
        views=[view_of(directory, corpus, name) for name in sets],
        events=directory.events(),
        reports=[directory.path / name for name in directory.stages().get("report", {}).get("files", ())],
        against=_evaluations(directory, "against.json") or [],
        usage=[usage for name in asked if (usage := _usage(directory, name, recipe["data"]["evals"]))],
        exports=read_exports(directory.path),
        ledger_totals=Ledger.read(directory.place("ledger.parquet")).totals(),
    )


def evaluations_of(directory: RunDirectory) -> list[Evaluation] | None:
    """Return the results of a run's evaluators, or None if it has not been evaluated yet.

    Raises:
        RunError: the file is damaged.
    """
    return _evaluations(directory, "evaluation.json")


def _evaluations(directory: RunDirectory, name: str) -> list[Evaluation] | None:
    found = directory.read_json(name, list[schemas.EvaluationRecord], schemas.MOST_BYTES_OF_SCORES)
    return None if found is None else [schemas.evaluation(record) for record in found]


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
        recipe: dict[str, Any] = schemas.checked(schemas.Resolved, document.data)
    except RecipeError as error:
        raise RunError(f"{error.problems[0]}; put the file back from a copy") from None
    except ValueError as error:
        raise RunError(f"{file}: {error}; put it back from a copy") from None
    return recipe


def view_of(directory: RunDirectory, corpus: Corpus, name: str, tuned: str = "tuned", base: str = "base") -> EvalView:
    """Return one eval set with the results of both models.

    Where a prompt has several answers, its example is repeated, once for each.

    Args:
        tuned: whose answers are those of the tuned model; see `answers_file`.
        base: whose answers stand in the place of the base model's.

    Raises:
        RunError: a file with answers has not as many rows as the eval set.
        DataError: it is missing or damaged.
    """
    examples = list(corpus.evals[name])
    found, samples = [], 1
    for who in (base, tuned):
        answers, losses = read_answers(answers_file(directory, who, name))
        rows = len(answers or losses)
        if rows != len(examples) * (samples := max(1, rows // max(1, len(examples)))):
            what = f"has {rows} rows, and its eval set {len(examples)}; put it back from a copy"
            raise RunError(f"{answers_file(directory, who, name)}: {what}")
        found.append((samples, answers, losses))
    if found[0][0] != found[1][0]:
        what = f"{found[0][0]} answers to each prompt by {base}, {found[1][0]} by {tuned}"
        raise RunError(f"{directory.path}: {what}; put the files with answers back from a copy")
    (_, base_answers, base_losses), (_, tuned_answers, tuned_losses) = found
    rows_of_samples = repeated(examples, samples)
    return EvalView(
        name,
        rows_of_samples,
        base_answers,
        tuned_answers,
        base_losses,
        tuned_losses,
        directory=directory.path,
        samples=samples,
    )


def answers_file(directory: RunDirectory, who: str, name: str) -> Path:
    """Return the file with the answers of `who` to an eval set: `base`, `tuned` or `contestant(name)`."""
    return directory.place(f"answers/{who}-{name}.parquet")


def contestant(name: str) -> str:
    """Return what the files of a contestant's answers are called by."""
    return f"against.{name}"


def _usage(directory: RunDirectory, who: str, evals: Iterable[str]) -> Usage | None:
    """Return what the answers of a model took; None where it gave none."""
    files = [answers_file(directory, who, name) for name in evals]
    answers = [answer for file in files if file.is_file() for answer in read_answers(file)[0]]
    if not answers:
        return None
    tokens = sum(answer.tokens for answer in answers) / len(answers)
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    costs = [answer.cost for answer in answers if answer.cost is not None]
    return Usage(
        who.removeprefix(contestant("")),
        len(answers),
        tokens,
        sum(seconds) / len(seconds) if seconds else None,
        sum(costs) / len(costs) if costs else None,
    )


def _eval_file(name: str) -> str:
    return f"data/eval-{name}.arrow"
