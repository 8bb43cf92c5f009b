"""Preference accuracy: which of two answers a model finds likelier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import ftp
from ftp.types import Kind


class Preference(ftp.Evaluator):
    """Share of held-out pairs in which the model gives the chosen answer the higher probability.

    - `accuracy`: the whole answer's log-probability decides ("ranking accuracy", Chen et al. 2024, arXiv:2405.19534);
      it favours short answers, for both models alike.
    - `accuracy_per_token`: the mean log-probability of a token decides, as in SimPO.
    - `reward_accuracy`: the change of the log-probability by the training decides, which is DPO's reward; it is 1/2 for
      the base model, whose answers haven't changed.
    """

    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    takes: ClassVar[tuple[Kind, ...]] = ("preference",)
    reads_answers: ClassVar[bool] = False

    def measure_examples(
        self, model: ftp.LoadedModel, examples: Sequence[ftp.Example], progress: Callable[[int], None]
    ) -> list[Any]:
        """Return the log-probability of the chosen and the rejected answer of each pair, with their tokens."""
        from ftp_plugins.evaluators.torch_preference import answer_log_probs

        return answer_log_probs(model, examples, progress)

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        base, tuned = list(view.base_values), list(view.tuned_values)
        changes = [
            {name: now[name] - before[name] for name in ("chosen", "rejected")}
            for before, now in zip(base, tuned, strict=True)
        ]
        figures = {
            "accuracy": ([_wins(pair) for pair in base], [_wins(pair) for pair in tuned], "accuracy"),
            "accuracy_per_token": (
                [_wins(_per_token(pair)) for pair in base],
                [_wins(_per_token(pair)) for pair in tuned],
                "accuracy",
            ),
            "reward_accuracy": ([0.5] * len(base), [_wins(pair) for pair in changes], ""),
        }
        clusters = ftp.clusters_of(view.examples)
        metrics = [
            ftp.paired_metric(name, before, now, clusters=clusters, limits=(0.0, 1.0), family=family)
            for name, (before, now, family) in figures.items()
        ]
        return ftp.Evaluation(tuple(metrics), n=len(view.examples))


def _wins(pair: Any) -> float:
    """Return 1 where the chosen answer has the higher figure, 0 where the rejected one has, and 1/2 for a tie."""
    return float(pair["chosen"] > pair["rejected"]) + 0.5 * float(pair["chosen"] == pair["rejected"])


def _per_token(pair: Any) -> dict[str, float]:
    return {name: pair[name] / pair[f"{name}_tokens"] for name in ("chosen", "rejected")}
