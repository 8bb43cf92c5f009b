"""A run read back from its directory, as reporters and commands see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ftp.data.examples import Corpus, read_examples
from ftp.data.ledger import Ledger
from ftp.errors import RunError
from ftp.runs.answers import read_answers
from ftp.runs.directory import RunDirectory
from ftp.runs.exports import read_exports
from ftp.types import Evaluation, EvalView, FinishedRun, Interval, Metric


def finished(directory: RunDirectory) -> FinishedRun:
    """Read a run back from its directory.

    Raises:
        RunError: it is not a run, it has not been evaluated yet, or one of its files is missing or damaged.
    """
    evaluations = evaluations_of(directory)
    if evaluations is None:
        what = "the run is not finished" if (directory.path / "run.lock.json").is_file() else "not a run directory"
        raise RunError(f"{directory.path}: {what}")
    try:
        return _read(directory, evaluations)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())
        raise RunError(f"{directory.path}: can't be read: a file is missing or damaged ({what})") from None


def evaluations_of(directory: RunDirectory) -> list[Evaluation] | None:
    """Return the results of a run's evaluators, or None if it has not been evaluated yet.

    Raises:
        RunError: the file is damaged.
    """
    records = directory.read_json("evaluation.json")
    try:
        return None if records is None else [_evaluation(record) for record in records]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{directory.path / 'evaluation.json'}: damaged ({type(error).__name__}: {error})") from None


def _read(directory: RunDirectory, evaluations: Sequence[Evaluation]) -> FinishedRun:
    recipe = yaml.safe_load((directory.path / "resolved.yaml").read_text(encoding="utf-8"))
    # Those of the recipe first, then those that evaluators brought; one that measures the model has none.
    files = {name: directory.path / "data" / f"eval-{name}.arrow" for name in recipe["data"]["evals"]}
    brought = {found.evals: directory.path / "data" / f"eval-{found.evals}.arrow" for found in evaluations}
    files |= {name: file for name, file in brought.items() if file.is_file()}
    sets = {name: read_examples(file) for name, file in files.items()}
    nothing = read_examples(directory.path / "data" / "validation.arrow")
    corpus = Corpus(nothing, nothing, sets)
    return FinishedRun(
        directory=directory.path,
        name=directory.name,
        id=directory.id,
        recipe=recipe,
        lock=directory.read_json("run.lock.json"),
        training=directory.read_json("training.json") or {},
        evaluations=evaluations,
        views=[view_of(directory, corpus, name) for name in sets],
        events=directory.events(),
        reports=[directory.path / name for name in directory.stages().get("report", {}).get("files", ())],
        exports=read_exports(directory.path),
        ledger_totals=Ledger.read(directory.path / "ledger.parquet").totals(),
    )


def _evaluation(record: dict[str, Any]) -> Evaluation:
    return Evaluation(
        tuple(map(_metric, record["metrics"])),
        tuple(record["notes"]),
        record["evaluator"],
        record["evals"],
        record["n"],
        panel={name: _number(value) for name, value in record.get("panel", {}).items()},
        subsets={part: tuple(map(_metric, metrics)) for part, metrics in record.get("subsets", {}).items()},
    )


def _metric(record: dict[str, Any]) -> Metric:
    # A run of an older release lacks the fields that came later; they have defaults.
    intervals = {
        k: record[k] and Interval(**{name: _number(v) for name, v in record[k].items()})
        for k in ("difference", "bootstrap", "worst")
        if k in record
    }
    numbers = ("base_scores", "tuned_scores", "weights", "limits")
    lists = {k: tuple(map(_number, v)) if k in numbers else tuple(v) for k, v in record.items() if isinstance(v, list)}
    plain = {k: _number(v) for k, v in record.items() if not isinstance(v, list | dict)}
    return Metric(**plain | lists | intervals)


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def view_of(directory: RunDirectory, corpus: Corpus, name: str, tuned: str = "tuned") -> EvalView:
    """Return one eval set with the results of both models."""
    base_answers, base_losses = read_answers(answers_file(directory, "base", name))
    tuned_answers, tuned_losses = read_answers(answers_file(directory, tuned, name))
    return EvalView(
        name,
        list(corpus.evals[name]),
        base_answers,
        tuned_answers,
        base_losses,
        tuned_losses,
        directory=directory.path,
    )


def answers_file(directory: RunDirectory, who: str, name: str) -> Path:
    """Return the file with the answers of `who` (`base` or `tuned`) to an eval set."""
    return directory.path / "answers" / f"{who}-{name}.parquet"
