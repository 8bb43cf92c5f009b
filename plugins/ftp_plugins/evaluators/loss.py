"""Loss and perplexity on held-out answers."""

from __future__ import annotations

import math
from typing import ClassVar

import ftp
from ftp.types import Kind


class Loss(ftp.Evaluator):
    """Mean negative log-likelihood per token of the reference, in nats, and its perplexity."""

    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    takes: ClassVar[tuple[Kind, ...]] = ("conversation", "text")
    reads_answers: ClassVar[bool] = False

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        tokens = [loss.tokens for loss in view.base_losses]
        base = [loss.nll for loss in view.base_losses]
        tuned = [loss.nll for loss in view.tuned_losses]
        mean_base, mean_tuned = math.fsum(base) / sum(tokens), math.fsum(tuned) / sum(tokens)
        difference = ftp.paired_ratio_difference(base, tuned, tokens)
        nll = ftp.Metric(
            name="nll",
            base=mean_base,
            tuned=mean_tuned,
            difference=difference,
            higher_is_better=False,
            base_scores=tuple(loss / n for loss, n in zip(base, tokens, strict=True)),
            tuned_scores=tuple(loss / n for loss, n in zip(tuned, tokens, strict=True)),
        )
        # exp of the interval's ends would be that of a ratio; the perplexities stand beside it as plain figures.
        perplexity = ftp.Metric("perplexity", _exp(mean_base), _exp(mean_tuned), None, higher_is_better=False)
        return ftp.Evaluation((nll, perplexity), n=len(tokens), notes=(f"{sum(tokens)} tokens",))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
