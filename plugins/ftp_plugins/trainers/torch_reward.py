"""The loss of a reward model as a part of the loop, and validation by the same measure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid

import ftp
from ftp.lm.training.torch_validation import spread
from ftp_plugins.trainers.pair_rows import PairRows
from ftp_plugins.trainers.reward_options import RewardOptions
from ftp_plugins.trainers.torch_objective import Objective
from ftp_plugins.trainers.torch_pairs import pair_table
from ftp_plugins.trainers.torch_reward_head import add_head, measured_rewards, packed_rows, padded_rows, rewards_of

FIGURES = ("accuracy", "margin", "chosen_reward", "rejected_reward")


class RewardObjective(Objective):
    """The mean loss of the pairs of an optimizer step, -log sigmoid(chosen - rejected).

    Args:
        rows, validation_rows: tokenised pairs.
    """

    figures = FIGURES
    loss_unit: ClassVar[str] = "mean over pairs"

    def __init__(self, job: ftp.TrainingJob, rows: PairRows, validation_rows: PairRows, options: RewardOptions) -> None:
        lengths = rows.lengths().tolist()
        trained = sum(lengths)
        super().__init__(job, Dataset(pair_table(rows)), rows.answers(), lengths, trained, bool(len(validation_rows)))
        self.validation_rows, self.options = validation_rows, options
        self.head = add_head(job.model.model, job.seed)
        self.seen: list[dict[str, float]] = []

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of the chosen and then the rejected answers."""
        ids = [row[name] for name in ("chosen", "rejected") for row in rows]
        if self.path is not None:
            return packed_rows(ids, once=self.path.separately is None)
        return padded_rows(ids, self.job.model.tokenizer.pad_token_id)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Count the pairs."""
        return len(batch["last"]) // 2

    def loss(self, model: Any, batch: Mapping[str, Any], count: Any) -> torch.Tensor:
        """Return the share of the batch's pairs in the mean over the pairs of the step."""
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=self.autocast):
            chosen, rejected = rewards_of(self.job.model.model, self.head, dict(batch)).view(2, -1)
        if model.training:
            self.seen.append(figures_of(chosen.detach(), rejected.detach()))
        share: torch.Tensor = pair_losses(self.options, chosen, rejected).sum() / count
        return share

    def step_figures(self) -> Mapping[str, float]:
        """Return the means over the step's batches."""
        seen, self.seen = self.seen, []
        return {name: statistics.fmean(batch[name] for batch in seen) for name in FIGURES} if seen else {}

    def validation(self, batch_tokens: int) -> PairRewards:
        """Return the loss, accuracy and rewards of the validation pairs."""
        return PairRewards(self, self.validation_rows, batch_tokens)


def pair_losses(options: RewardOptions, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return the loss of each pair from the rewards of its answers, [pairs]."""
    losses = -logsigmoid(chosen - rejected)
    if options.center_rewards_coefficient is not None:
        losses = losses + options.center_rewards_coefficient * (chosen + rejected) ** 2
    return losses


def figures_of(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, float]:
    """Return the figures of pairs as means, by name; `accuracy` is the share that is ranked as it was judged."""
    return {
        "accuracy": float((chosen > rejected).double().mean()),
        "margin": float((chosen - rejected).mean()),
        "chosen_reward": float(chosen.mean()),
        "rejected_reward": float(rejected.mean()),
    }


class PairRewards:
    """Loss, accuracy and rewards of validation pairs, each pair counted once.

    Args:
        batch_tokens: tokens that may go through the model at once.
    """

    def __init__(self, objective: RewardObjective, rows: PairRows, batch_tokens: int) -> None:
        self.objective, self.rows, self.batch_tokens = objective, rows, batch_tokens

    def __len__(self) -> int:
        return len(self.rows)

    def measure(self) -> dict[str, Any]:
        """Return `loss`, the figures of `figures_of`, and the loss `by_source` where the pairs have several sources."""
        chosen, rejected = self._rewards()
        losses = pair_losses(self.objective.options, chosen, rejected)
        values: dict[str, Any] = {"loss": float(losses.mean()), **figures_of(chosen, rejected)}
        if len(set(self.rows.origins)) > 1:
            values["by_source"] = {
                name: float(losses[[source == name for source in self.rows.origins]].mean())
                for name in dict.fromkeys(self.rows.origins)
            }
        return values

    def _rewards(self) -> tuple[torch.Tensor, torch.Tensor]:
        objective = self.objective
        rows = [row.input_ids for row in self.rows.answers()]
        found = measured_rewards(objective.job.model, objective.head, rows, self.batch_tokens).view(-1, 2)
        return found[:, 0], found[:, 1]

    def rehearse(self) -> None:
        """Compute the rewards of the longest pair."""
        longest = int(self.rows.lengths().argmax())
        PairRewards(self.objective, self.rows.take([longest]), self.batch_tokens).measure()

    def sample(self, rows: int) -> tuple[PairRewards, float]:
        """Return a validation on about so many pairs of every length, and how many times its work the whole one is."""
        lengths = self.rows.lengths().tolist()
        part = PairRewards(self.objective, self.rows.take(spread(lengths, rows)), self.batch_tokens)
        return part, sum(lengths) / int(part.rows.lengths().sum())
