"""The loss of pairs of answers as a part of the loop, and validation by the same measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import torch
from datasets import Dataset

import ftp
from ftp.lm.torch_losses import token_losses
from ftp.lm.training.torch_validation import shared_token_losses, spread
from ftp.types import LoadedModel
from ftp_plugins.speed.torch_batches import Batches, shared_tokens
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.trainers.dpo_options import DPOOptions
from ftp_plugins.trainers.pair_rows import PairRows
from ftp_plugins.trainers.torch_pair_losses import Answers, mean_loss, pair_losses, rewards
from ftp_plugins.trainers.torch_sequences import SequenceObjective, StepMeans

FIGURES = ("accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_log_prob", "rejected_log_prob")


def pair_table(rows: PairRows) -> Any:
    """Return the token ids and masks of both answers of each pair, and its number, as a `pyarrow.Table`."""
    return pa.table(
        {
            "chosen": rows.chosen.table.column("input_ids"),
            "chosen_trained": rows.chosen.table.column("trained"),
            "rejected": rows.rejected.table.column("input_ids"),
            "rejected_trained": rows.rejected.table.column("trained"),
            "row": pa.array(range(len(rows))),
        }
    )


class PairObjective(SequenceObjective):
    """The mean loss of the pairs of an optimizer step.

    Args:
        rows, validation_rows: tokenised pairs.
    """

    figures = FIGURES
    loss_unit: ClassVar[str] = "mean over pairs"

    def __init__(self, job: ftp.TrainingJob, rows: PairRows, validation_rows: PairRows, options: DPOOptions) -> None:
        table = pair_table(rows)
        trained = int(rows.chosen.trained_counts(1).sum() + rows.rejected.trained_counts(1).sum())
        answers = rows.answers()
        super().__init__(job, Dataset(table), answers, rows.lengths().tolist(), trained, bool(len(validation_rows)))
        self.validation_rows, self.options = validation_rows, options
        self.reference: Any = None
        self.validation_reference: Any = None
        self.means = StepMeans(FIGURES)

    def shared_tokens(self, path: FastPath, batch_size: int, seed: int) -> int:
        """Count the tokens of an epoch that are computed together with those of another answer of their batch."""
        if path.separately is not None:
            return 0
        batches = Batches(self.lengths, batch_size, seed, alike=False).of(0)
        return shared_tokens(self.tokens, [[2 * pair + of for pair in batch for of in (0, 1)] for batch in batches])

    def begin(self) -> None:
        """Compute the reference's log-probabilities of all answers; the losses without a reference need none."""
        if not self.options.has_reference:
            return
        self.job.emit("note", text="Computing the reference's log-probabilities, once before training.")
        size = self.options.batch_size
        self.reference = self.reference_of(self.tokens, size, training=True).view(-1, 2)
        if len(self.validation_rows):
            rows = self.validation_rows.answers()
            self.validation_reference = self.reference_of(rows, size, training=False).view(-1, 2)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of the chosen and then the rejected answers, with the reference's log-probabilities."""
        answers = [
            {"input_ids": row[name], "trained": row[f"{name}_trained"]}
            for name in ("chosen", "rejected")
            for row in rows
        ]
        batch = self.sequences(answers)
        if self.reference is not None:
            batch["reference"] = self.reference[[row["row"] for row in rows]].T.float()
        return batch

    def count(self, batch: Mapping[str, Any]) -> int:
        """Count the pairs."""
        return len(batch["answer_tokens"]) // 2

    def loss(self, model: Any, batch: Mapping[str, Any], count: Any) -> torch.Tensor:
        """Return the share of the batch's pairs in the mean over the pairs of the step."""
        log_probs = self.log_probs(model, batch).view(2, -1)
        tokens = batch["answer_tokens"].view(2, -1)
        reference = batch.get("reference", (None, None))
        chosen, rejected = (Answers(log_probs[at], tokens[at], reference[at]) for at in (0, 1))
        if model.training:
            with torch.no_grad():
                self.means.add(figures_of(self.options, chosen, rejected), self.count(batch))
        share: torch.Tensor = mean_loss(self.options, chosen, rejected) * self.count(batch) / count
        return share

    def step_figures(self) -> Mapping[str, float]:
        """Return the means over the step's pairs."""
        return self.means.take()

    def validation(self, batch_tokens: int) -> PairValidation:
        """Return the loss, accuracy and rewards of the validation pairs."""
        return PairValidation(
            self.job.model, self.validation_rows, self.validation_reference, self.options, batch_tokens
        )


def figures_of(options: DPOOptions, chosen: Answers, rejected: Answers) -> dict[str, float]:
    """Return the figures of pairs as means, by name.

    `accuracy` is the share of pairs whose chosen answer has the higher reward; `margin` the difference of the rewards;
    the log-probabilities are in nats per answer.
    """
    first, second = rewards(options, chosen), rewards(options, rejected)
    return {
        "accuracy": float((first > second).double().mean()),
        "margin": float((first - second).mean()),
        "chosen_reward": float(first.mean()),
        "rejected_reward": float(second.mean()),
        "chosen_log_prob": float(chosen.log_probs.mean()),
        "rejected_log_prob": float(rejected.log_probs.mean()),
    }


class PairValidation:
    """Loss, accuracy and rewards of validation pairs, each pair counted once.

    Args:
        reference: the log-probabilities of chosen and rejected answers before training, float64 [pairs, 2], or None.
        batch_tokens: tokens that may go through the model at once.
    """

    def __init__(
        self, model: LoadedModel, rows: PairRows, reference: torch.Tensor | None, options: DPOOptions, batch_tokens: int
    ) -> None:
        self.model, self.rows, self.reference, self.options = model, rows, reference, options
        self.batch_tokens = batch_tokens

    def __len__(self) -> int:
        return len(self.rows)

    def measure(self) -> dict[str, Any]:
        """Return `loss`, the figures of `figures_of`, and the loss `by_source` where the pairs have several sources."""
        losses = shared_token_losses(self.model, self.rows.answers(), self.batch_tokens)
        log_probs = -torch.tensor([row.nll for row in losses], dtype=torch.float64).view(-1, 2)
        tokens = torch.tensor([row.tokens for row in losses], dtype=torch.float64).view(-1, 2)
        chosen, rejected = (
            Answers(log_probs[:, at], tokens[:, at], None if self.reference is None else self.reference[:, at])
            for at in (0, 1)
        )
        sft = 1.0 if self.options.loss == "orpo" else self.options.sft_weight
        values: dict[str, Any] = {"loss": float(mean_loss(self.options, chosen, rejected))}
        values |= figures_of(self.options, chosen, rejected)
        if len(set(self.rows.origins)) > 1:
            each = pair_losses(self.options, chosen, rejected) - sft * chosen.means
            values["by_source"] = {
                name: float(each[[source == name for source in self.rows.origins]].mean())
                for name in dict.fromkeys(self.rows.origins)
            }
        return values

    def rehearse(self) -> None:
        """Compute the log-probabilities of the longest pair."""
        longest = int(self.rows.lengths().argmax())
        token_losses(self.model, self.rows.take([longest]).answers(), batch_tokens=self.batch_tokens)

    def sample(self, rows: int) -> tuple[PairValidation, float]:
        """Return a validation on about so many pairs of every length, and how many times its work the whole one is."""
        lengths = self.rows.lengths().tolist()
        at = spread(lengths, rows)
        reference = None if self.reference is None else self.reference[at]
        part = PairValidation(self.model, self.rows.take(at), reference, self.options, self.batch_tokens)
        return part, sum(lengths) / int(part.rows.lengths().sum())
