"""Eval sets that evaluators bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftp.components import BringsEvals, Evaluator
from ftp.errors import RecipeError
from ftp.guard import call
from ftp.types import Example


def bring_evals(evaluators: Sequence[Evaluator]) -> dict[str, Sequence[Example]]:
    """Return the eval sets that evaluators bring. The same examples under the same name are one set.

    Raises:
        RecipeError: two of them bring other examples under one name.
        DataError: an evaluator can't read its data.
    """
    return together([(evaluator, own_evals(evaluator)) for evaluator in evaluators])


def own_evals(evaluator: Evaluator) -> Mapping[str, Sequence[Example]]:
    """Return the eval sets that one evaluator brings, by name."""
    return call(Mapping, evaluator.own_evals) if isinstance(evaluator, BringsEvals) else {}


def together(own: Sequence[tuple[Evaluator, Mapping[str, Sequence[Example]]]]) -> dict[str, Sequence[Example]]:
    """Merge the eval sets of several evaluators; see `bring_evals`."""
    found: dict[str, Sequence[Example]] = {}
    for evaluator, sets in own:
        for name, examples in sets.items():
            if list(found.setdefault(name, examples)) != list(examples):
                what = (
                    f"brings an eval set '{name}', and another evaluator brings one with other examples under that name"
                )
                raise RecipeError([f"evaluate: '{evaluator.used_as}' {what}; give both the same data, or remove one"])
    return found
