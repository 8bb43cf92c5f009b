"""Losses of pairs of answers, from the log-probabilities of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from ftp_plugins.trainers.dpo_options import DPOOptions


@dataclass(frozen=True)
class Answers:
    """Answers of one kind, chosen or rejected, of a batch of pairs; float [pairs] each."""

    log_probs: torch.Tensor
    """The log-probability of each answer, in nats."""
    tokens: torch.Tensor
    """The trained tokens of each answer."""
    reference: torch.Tensor | None
    """The log-probability before training; None for a loss without a reference."""

    @property
    def ratios(self) -> torch.Tensor:
        """The logarithm of the ratio of the probabilities now and before."""
        assert self.reference is not None
        return self.log_probs - self.reference

    @property
    def means(self) -> torch.Tensor:
        """The mean log-probability of a token of each answer."""
        return self.log_probs / self.tokens


def rewards(options: DPOOptions, answers: Answers) -> torch.Tensor:
    """Return the rewards that the loss gives answers implicitly, [pairs]."""
    score = answers.ratios if options.has_reference else answers.means
    return options.beta * score


def pair_losses(options: DPOOptions, chosen: Answers, rejected: Answers) -> torch.Tensor:
    """Return the loss of each pair, without `sft_weight`, [pairs]; sources at `DPO`."""
    beta, wrong = options.beta, options.label_smoothing
    match options.loss:
        case "sigmoid" | "robust" | "simpo":
            margin = rewards(options, chosen) - rewards(options, rejected)
            if options.loss == "simpo":
                margin = margin - options.simpo_margin
            if options.loss == "robust":
                return (-(1 - wrong) * logsigmoid(margin) + wrong * logsigmoid(-margin)) / (1 - 2 * wrong)
            return -(1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)
        case "hinge":
            return torch.relu(1 - beta * (chosen.ratios - rejected.ratios))
        case "ipo":
            return (chosen.ratios / chosen.tokens - rejected.ratios / rejected.tokens - 1 / (2 * beta)) ** 2
        case "apo_zero":
            return 1 - torch.sigmoid(beta * chosen.ratios) + torch.sigmoid(beta * rejected.ratios)
        case "apo_down":
            return torch.sigmoid(beta * chosen.ratios) + 1 - torch.sigmoid(beta * (chosen.ratios - rejected.ratios))
        case "orpo":
            odds = chosen.means - rejected.means - (_log1mexp(chosen.means) - _log1mexp(rejected.means))
            return -beta * logsigmoid(odds)


def mean_loss(options: DPOOptions, chosen: Answers, rejected: Answers) -> torch.Tensor:
    """Return the loss of a batch: the mean over its pairs, and what the chosen answers' tokens add to it.

    As in TRL, the latter is a mean over the tokens of the batch.
    """
    weight = 1.0 if options.loss == "orpo" else options.sft_weight
    loss = pair_losses(options, chosen, rejected).mean()
    return loss - weight * chosen.log_probs.sum() / chosen.tokens.sum() if weight else loss


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x < 0, without cancellation (Mächler 2012, Rmpfr's note on log1mexp)."""
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
