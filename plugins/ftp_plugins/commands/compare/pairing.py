"""Compare finished runs, paired on the same examples."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftp.data.examples import Examples, read_examples
from ftp.errors import RunError
from ftp.files import digest
from ftp.results import finished
from ftp.runs.directory import RunDirectory
from ftp.stats.paired import adjusted, paired_metric
from ftp.types import Example, FinishedRun, Metric

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of the tuned models of two runs. In `metric`, the first run's scores are base, the other's tuned."""

    first: Path
    other: Path
    evals: str
    evaluator: str
    metric: Metric


def compare(runs: Sequence[Path]) -> tuple[list[Comparison], list[str]]:
    """Pair the tuned models of runs with the first run's, example by example; p-values are adjusted (Holm).

    Returns:
        The comparisons, and notes on what could not be compared, with the reason.

    Raises:
        RunError: a run isn't finished, or an eval set has different examples in two runs.
    """
    first, *others = [finished(RunDirectory(run)) for run in runs]
    found: list[Comparison] = []
    notes: list[str] = []
    for other in others:
        for pair, why in _pairs(first, other):
            if pair is not None:
                found.append(pair)
            if why:
                notes.append(why)
    if not found:
        raise RunError("\n".join(["these runs have no metric in common that can be paired", *notes]))
    metrics = adjusted([comparison.metric for comparison in found])
    return [
        dataclasses.replace(comparison, metric=metric) for comparison, metric in zip(found, metrics, strict=True)
    ], list(dict.fromkeys(notes))


def _pairs(first: FinishedRun, other: FinishedRun) -> list[tuple[Comparison | None, str]]:
    found: list[tuple[Comparison | None, str]] = []
    theirs, mine = _metrics(other), _metrics(first)
    sets = {run.directory: _sets(run) for run in (first, other)}
    orders = {
        name: _order(name, first, sets[first.directory][name], other, sets[other.directory][name])
        for name in sets[first.directory].keys() & sets[other.directory].keys()
    }
    for key in dict.fromkeys([*mine, *theirs]):
        evals, evaluator, name = key
        label = f"{evals}, {evaluator} {name}"
        if key not in mine or key not in theirs:
            found.append((None, f"{label}: only in {(first if key in mine else other).directory}"))
            continue
        one, two = mine[key], theirs[key]
        if not one.tuned_scores or not two.tuned_scores:
            found.append((None, f"{label}: has no score for each example, so it can't be paired"))
        elif evals not in orders:
            found.append((None, f"{label}: its examples are not stored, so it can't be paired"))
        else:
            order = orders[evals]
            weights = [two.weights[at] for at in order] if two.weights else []
            if weights != list(one.weights):
                found.append((None, f"{label}: weights examples by different tokens in the two runs"))
                continue
            metric = paired_metric(
                name,
                one.tuned_scores,
                [two.tuned_scores[at] for at in order],
                higher_is_better=one.higher_is_better,
                weights=weights or None,
                clusters=one.clusters or None,
                limits=(one.limits[0], one.limits[1]) if one.limits else None,
                family=one.family,
            )
            found.append((Comparison(first.directory, other.directory, evals, evaluator, metric), ""))
    return found + [(None, note) for note in _other_options(first, other)]


def _metrics(run: FinishedRun) -> dict[tuple[str, str, str], Metric]:
    """Return the metrics by eval set, evaluator and name; an evaluator that a recipe has more than once is numbered."""
    found: dict[tuple[str, str, str], Metric] = {}
    for evaluation in run.evaluations:
        for metric in evaluation.metrics:
            number, evaluator = 1, evaluation.evaluator
            while (evaluation.evals, evaluator, metric.name) in found:
                number += 1
                evaluator = f"{evaluation.evaluator} {number}"
            found[evaluation.evals, evaluator, metric.name] = metric
    return found


def _sets(run: FinishedRun) -> dict[str, Examples]:
    directory = RunDirectory(run.directory)
    names = sorted(file.name for file in (run.directory / "data").glob("eval-*.arrow"))
    return {Path(name).stem.removeprefix("eval-"): read_examples(directory.place(f"data/{name}")) for name in names}


def _order(name: str, first: FinishedRun, mine: Examples, other: FinishedRun, theirs: Examples) -> list[int]:
    """Return the position of each example of the first run in the other run's eval set, by content.

    Raises:
        RunError: how the sets differ.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for at, example in reversed(list(enumerate(theirs))):
        places[_content(example)].append(at)
    order: list[int] = []
    lacking: list[str] = []
    for example in mine:
        where = places[_content(example)]
        if where:
            order.append(where.pop())
        else:
            lacking.append(example.id)
    left = [theirs[at].id for where in places.values() for at in where]
    if not lacking and not left:
        return order
    what = [f"eval set '{name}' differs: {len(mine)} examples in {first.directory}, {len(theirs)} in {other.directory}"]
    for run, ids in ((first, lacking), (other, left)):
        if ids:
            more = " …" if len(ids) > SHOWN else ""
            what.append(f"only in {run.directory}: {len(ids)}, {', '.join(ids[:SHOWN])}{more}")
    changed = sorted(set(lacking) & set(left))
    if changed:
        what.append(f"{len(changed)} have the same id and another text, {changed[0]} among them")
    raise RunError("; ".join(what) + ". `ftp eval RUN -e RECIPE` evaluates a run on the eval sets of a recipe.")


def _content(example: Example) -> str:
    return digest([[dataclasses.astuple(message) for message in example.messages], example.text, example.tools])


def _other_options(first: FinishedRun, other: FinishedRun) -> list[str]:
    """Report the evaluators whose options differ between the runs; their metrics are compared anyway."""
    mine, theirs = _blocks(first), _blocks(other)
    notes = []
    for use in mine.keys() & theirs.keys():
        keys = mine[use].keys() | theirs[use].keys()
        changed = sorted(key for key in keys if mine[use].get(key) != theirs[use].get(key))
        if changed:
            notes.append(f"{use}: other options in {other.directory}: {', '.join(changed)}")
    return notes


def _blocks(run: FinishedRun) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for block in run.recipe["evaluate"]:
        number = sum(known.split(" ")[0] == block["use"] for known in found) + 1
        found[block["use"] if number == 1 else f"{block['use']} {number}"] = block
    return found
