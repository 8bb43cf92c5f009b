"""What FTP relies on in an evaluator."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from ftp.components import BringsEvals, Evaluator, MeasuresModel
from ftp.options import PLAIN_NAME
from ftp.testing.conformance.common import attempt, fail, finite, pickled
from ftp.types import Evaluation, EvalView, Example, Score


def check_evaluator(evaluator: Evaluator, views: Sequence[EvalView]) -> None:
    """Check that scores are finite, repeatable, one for each example, and follow their example and their model."""
    cls = type(evaluator)
    if isinstance(evaluator, BringsEvals):
        _check_own_evals(evaluator)
    if isinstance(evaluator, MeasuresModel) or evaluator.measures_examples:  # what it measures takes a model
        return
    for view in views:
        if "conversation" not in cls.takes:
            view = dataclasses.replace(view, examples=[Example(text=e.reference, id=e.id) for e in view.examples])
        attempt(cls, evaluator.check, view.examples)
        if cls.score is not Evaluator.score:
            score = attempt(cls, evaluator.score, view.examples[0], view.base_answers[0].text)
            if not finite(score.value if isinstance(score, Score) else score):
                fail(cls, f"score returned {score!r}; it has to be a finite number, or an ftp.Score of one.")
        if not cls.reads_answers:
            view = dataclasses.replace(view, base_answers=[], tuned_answers=[])
        found = _evaluated(evaluator, view)
        if _evaluated(evaluator, view) != found or _evaluated(pickled(evaluator), view) != found:
            fail(cls, "evaluate returns something else the second time; the same answers have to get the same scores.")
        _check_pairing(evaluator, view, found)


def _check_own_evals(evaluator: Evaluator) -> None:
    assert isinstance(evaluator, BringsEvals)
    cls = type(evaluator)
    sets = attempt(cls, evaluator.own_evals)
    if not isinstance(sets, Mapping):
        fail(cls, f"own_evals returned {type(sets).__name__}, not eval sets by name.")
    for name, examples in sets.items():
        if not re.fullmatch(PLAIN_NAME, str(name)):
            fail(cls, f"own_evals names an eval set {name!r}; a name is also that of a file.")
        for example in examples:
            if not isinstance(example, Example):
                fail(cls, f"own_evals['{name}'] holds {type(example).__name__}, not ftp.Example.")
            if not example.source:
                fail(cls, f"own_evals['{name}'] has an example without a source; say what file it is from.")
    if {name: list(rows) for name, rows in evaluator.own_evals().items()} != {
        n: list(rows) for n, rows in sets.items()
    }:
        fail(cls, "own_evals returns different examples the second time.")


def _evaluated(evaluator: Evaluator, view: EvalView) -> Evaluation:
    found = attempt(type(evaluator), evaluator.evaluate, view)
    if not isinstance(found, Evaluation):
        fail(type(evaluator), f"evaluate returned {type(found).__name__}, not an ftp.Evaluation.")
    fault = _evaluation_fault(found, len(view.examples))
    if fault:
        fail(type(evaluator), f"evaluate {fault}.")
    return found


def _evaluation_fault(found: Evaluation, examples: int) -> str | None:
    if not found.metrics:
        return "found no metric"
    names = [metric.name for metric in found.metrics]
    if not all(names) or len(set(names)) < len(names):
        return f"named its metrics {names}; each needs a name of its own"
    if not 0 < found.n <= examples:
        return f"says that n is {found.n}, and there are {examples} examples"
    if not any(metric.base_scores for metric in found.metrics):
        return "gave no metric with a score for each example"
    for metric in found.metrics:
        if not (finite(metric.base) and finite(metric.tuned)):
            return f"gave {metric.name} the figures {metric.base!r} and {metric.tuned!r}, which are not finite"
        if {len(metric.base_scores), len(metric.tuned_scores)} not in ({0}, {examples}):
            counts = f"{len(metric.base_scores)} and {len(metric.tuned_scores)}"
            return f"gave {metric.name} {counts} scores; one for each of the {examples} examples is needed, or none"
        if not all(map(finite, (*metric.base_scores, *metric.tuned_scores))):
            return f"gave {metric.name} a score that is not a finite number"
    return None


def _check_pairing(evaluator: Evaluator, view: EvalView, found: Evaluation) -> None:
    """Check that scores follow their example and model: reversing or swapping the inputs moves the scores along."""
    turned = dataclasses.replace(
        view,
        examples=view.examples[::-1],
        base_answers=view.base_answers[::-1],
        tuned_answers=view.tuned_answers[::-1],
        base_losses=view.base_losses[::-1],
        tuned_losses=view.tuned_losses[::-1],
    )
    swapped = dataclasses.replace(
        view,
        base_answers=view.tuned_answers,
        tuned_answers=view.base_answers,
        base_losses=view.tuned_losses,
        tuned_losses=view.base_losses,
    )
    again = [_evaluated(evaluator, other).metrics for other in (turned, swapped)]
    if any([metric.name for metric in metrics] != [metric.name for metric in found.metrics] for metrics in again):
        fail(type(evaluator), "evaluate names its metrics by what the answers are; they have to be the same always.")
    for metric, backwards, crossed in zip(found.metrics, *again, strict=True):
        if (backwards.base_scores, backwards.tuned_scores) != (metric.base_scores[::-1], metric.tuned_scores[::-1]):
            fail(type(evaluator), f"{metric.name} doesn't keep the scores in the order of the examples.")
        if (crossed.base_scores, crossed.tuned_scores) != (metric.tuned_scores, metric.base_scores):
            fail(type(evaluator), f"{metric.name} doesn't treat both models alike: swapped, they get other scores.")
