"""The option `best_by` of a trainer, by which the best state of a training is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from ftp.components import Evaluator
from ftp.errors import did_you_mean


def best_by_problem(best_by: str, evaluators: Sequence[Evaluator], measures: Sequence[str] = ("loss",)) -> str | None:
    """Return what is wrong with the value of `best_by` in a recipe, or None.

    Args:
        best_by: one of `measures`, or `EVALUATOR` or `EVALUATOR.METRIC`, as `TrainingJob.score` takes it.
        evaluators: those of the recipe.
        measures: what the trainer's own validation measures.
    """
    name = best_by.partition(".")[0]
    able = [e.used_as for e in evaluators if not e.on_its_own and not e.measures_examples]
    if best_by in measures or name in able:
        return None
    what = f"no evaluator '{name}' under `evaluate:`"
    if name in [evaluator.used_as for evaluator in evaluators]:
        own = any(e.used_as == name and e.on_its_own for e in evaluators)
        why = "is evaluated on data of its own" if own else "measures models and scores no answers"
        what = f"'{name}' {why} and can't score validation rows"
    return what + did_you_mean(name, {*measures, *able})
