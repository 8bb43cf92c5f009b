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
    reads_losses: ClassVar[bool] = True

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        nll, perplexity = loss_metrics(view)
        return ftp.Evaluation((nll, perplexity), n=len(view.base_losses), notes=(f"{sum(nll.weights):.0f} tokens",))


def loss_metrics(view: ftp.EvalView) -> tuple[ftp.Metric, ftp.Metric]:
    """Return the loss in nats per token, paired by example and weighted by tokens, and the perplexity."""
    tokens = [loss.tokens for loss in view.base_losses]
    nll = ftp.paired_metric(
        "nll",
        [loss.nll / loss.tokens for loss in view.base_losses],
        [loss.nll / loss.tokens for loss in view.tuned_losses],
        higher_is_better=False,
        weights=tokens,
        clusters=ftp.clusters_of(view.examples),
    )
    # exp of the interval's ends would be that of a ratio; the perplexities stand beside it as plain figures.
    return nll, ftp.Metric("perplexity", _exp(nll.base), _exp(nll.tuned), None, higher_is_better=False)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
