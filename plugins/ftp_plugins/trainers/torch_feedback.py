"""The loss of judged answers as a part of the loop, and validation by the same measure."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import torch
from datasets import Dataset

import ftp
from ftp.lm.tokens import TokenRows
from ftp.lm.torch_losses import token_losses
from ftp.lm.training.torch_processes import current
from ftp.lm.training.torch_validation import shared_token_losses, spread
from ftp.types import LoadedModel
from ftp_plugins.speed.torch_batches import Batches
from ftp_plugins.speed.torch_shares import is_empty
from ftp_plugins.trainers.kto_options import KTOOptions
from ftp_plugins.trainers.torch_sequences import SequenceObjective, StepMeans

FIGURES = ("margin", "chosen_reward", "rejected_reward", "chosen_log_prob", "rejected_log_prob", "kl")
BALANCE = (1.0, 4 / 3)
"""Good answers' share against the bad ones', weights included, that KTO's authors recommend."""


class FeedbackObjective(SequenceObjective):
    """The mean loss of the rows of an optimizer step.

    Args:
        rows, validation_rows: tokenised rows, each with its `label`.
    """

    figures = FIGURES
    loss_unit: ClassVar[str] = "mean over rows"

    def __init__(self, job: ftp.TrainingJob, rows: TokenRows, validation_rows: TokenRows, options: KTOOptions) -> None:
        self.options, self.validation_rows = options, validation_rows
        self.labels = torch.tensor(rows.table.column("label").to_pylist(), dtype=torch.bool)
        self.others = TokenRows(rows.table.slice(0, 0))
        columns = {"row": pa.array(range(len(rows)))}
        if options.loss == "kto" and len(rows):
            order = Batches(rows.lengths().tolist(), options.batch_size, job.seed, alike=False).of(0)
            self.others = mismatched(rows, order, options.max_length)
            columns["other_ids"] = self.others.table.column("input_ids")
            columns["other_trained"] = self.others.table.column("trained")
        table = rows.table.select(["input_ids", "trained"])
        for name, column in columns.items():
            table = table.append_column(name, column)
        lengths, trained = rows.lengths().tolist(), int(rows.trained_counts(1).sum())
        super().__init__(job, Dataset(table), rows, lengths, trained, bool(len(validation_rows)))
        self.reference: Any = None
        self.other_reference: Any = None
        self.validation_parts: tuple[Any, ...] = ()
        self.divergence = 0.0
        self.means = StepMeans(FIGURES)

    def begin(self) -> None:
        """Compute the reference's log-probabilities of all rows, and of the mismatched ones."""
        self.job.emit("note", text="Computing the reference's log-probabilities, once before training.")
        if text := imbalance(self.options, self.labels):
            self.job.emit("note", text=text)
        size = self.options.batch_size
        self.reference = self.reference_of(self.tokens, size, training=True)
        if len(self.others):
            self.other_reference = self.reference_of(self.others, size, training=True)
        if len(self.validation_rows):
            rows, others = self.validation_rows, TokenRows(self.validation_rows.table.slice(0, 0))
            if self.options.loss == "kto":
                others = mismatched(rows, [list(range(len(rows)))], self.options.max_length)
            parts = [self.reference_of(part, size, training=False) for part in (rows, others) if len(part)]
            self.validation_parts = (others, parts[0], parts[1] if len(others) else None)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of the rows, and one of the mismatched rows inside it, with the reference's figures."""
        numbers = [row["row"] for row in rows]
        batch = self.sequences(rows)
        batch |= {"label": self.labels[numbers], "reference": self.reference[numbers].float()}
        if self.other_reference is not None:
            others = [{"input_ids": row["other_ids"], "trained": row["other_trained"]} for row in rows]
            batch["others"] = self.sequences(others)
            batch["tokens"] += batch["others"].pop("tokens")
            batch["other_reference"] = self.other_reference[numbers].float()
        return batch

    def count(self, batch: Mapping[str, Any]) -> int:
        """Count the rows."""
        return len(batch["label"])

    def prepare(self, batches: Sequence[dict[str, Any]], step: int, rehearsal: bool) -> None:
        """Estimate the divergence on the mismatched rows of the whole step, those of all processes."""
        if self.other_reference is None:
            return
        model, ratios = self.job.model.model, [0.0]
        model.train()
        with torch.no_grad(), self.path.attention() if self.path else contextlib.nullcontext():
            for batch in batches:
                if not is_empty(batch):
                    others = self.log_probs(model, batch["others"]) - batch["other_reference"]
                    ratios += others.double().tolist()
        total, rows = current().sums(math.fsum(ratios), len(ratios) - 1)
        self.divergence = max(0.0, total / rows)

    def loss(self, model: Any, batch: Mapping[str, Any], count: Any) -> torch.Tensor:
        """Return the share of the batch's rows in the mean over the rows of the step."""
        divergence = batch["reference"].new_tensor(self.divergence)
        log_probs = self.log_probs(model, batch)
        losses = row_losses(self.options, log_probs - batch["reference"], batch["label"], divergence)
        if model.training:
            rewards = self.options.beta * (log_probs - batch["reference"])
            figures = figures_of(rewards.detach(), log_probs.detach(), batch["label"], divergence)
            for name, value in figures.items():
                good, rows = int(batch["label"].sum()), len(batch["label"])
                weight = good if name.startswith("chosen") else rows - good if name.startswith("rejected") else rows
                self.means.add({name: value}, weight)
        share: torch.Tensor = losses.sum() / count
        return share

    def step_figures(self) -> Mapping[str, float]:
        """Return the means over the step's good and bad answers, and the difference of their rewards."""
        found = self.means.take()
        found.pop("margin", None)
        if "chosen_reward" in found and "rejected_reward" in found:
            found["margin"] = found["chosen_reward"] - found["rejected_reward"]
        return found

    def validation(self, batch_tokens: int) -> FeedbackValidation:
        """Return the loss and rewards of the validation rows."""
        return FeedbackValidation(
            self.job.model, self.validation_rows, self.validation_parts, self.options, batch_tokens
        )


def mismatched(rows: TokenRows, batches: Sequence[Sequence[int]], max_length: int) -> TokenRows:
    """Return the prompt of each row with the answer of the row before it in its batch, the last one's for the first.

    A row alone in a batch gets the answer of the row before that. They are cut to `max_length` tokens.

    Raises:
        DataError: there is one row only.
    """
    if len(rows) < 2:
        raise ftp.DataError(["train: 'kto' estimates a divergence on the answers of other rows; two rows are needed"])
    found: dict[int, tuple[list[int], list[bool]]] = {}
    before = batches[-2][-1] if len(batches) > 1 else batches[0][0]
    for batch in batches:
        partners = [batch[-1] if len(batch) > 1 else before, *batch[:-1]]
        for number, partner in zip(batch, partners, strict=True):
            row, other = rows[number], rows[partner]
            prompt, answer = row.trained.index(True), other.trained.index(True)
            ids = [*row.input_ids[:prompt], *other.input_ids[answer:]][:max_length]
            found[number] = ids, [*[False] * prompt, *other.trained[answer:]][:max_length]
        before = batch[-1]
    schema = rows.table.select(["input_ids", "trained"]).schema
    columns = {
        "input_ids": [found[number][0] for number in range(len(rows))],
        "trained": [found[number][1] for number in range(len(rows))],
    }
    return TokenRows(pa.table(columns, schema=schema))


def row_losses(
    options: KTOOptions, ratios: torch.Tensor, labels: torch.Tensor, divergence: torch.Tensor
) -> torch.Tensor:
    """Return the loss of each row, [rows].

    Args:
        ratios: logarithms of the ratio of an answer's probabilities now and before training.
        labels: whether each answer is a good one, bool [rows].
        divergence: the KL divergence from the reference, estimated; 0 for `apo_zero_unpaired`.
    """
    signs = torch.where(labels, 1.0, -1.0).to(ratios)
    weights = torch.where(labels, options.desirable_weight, options.undesirable_weight).to(ratios)
    return weights * (1 - torch.sigmoid(signs * options.beta * (ratios - divergence)))


def figures_of(
    rewards: torch.Tensor, log_probs: torch.Tensor, labels: torch.Tensor, divergence: torch.Tensor
) -> dict[str, float]:
    """Return the means of rewards and log-probabilities for good and bad answers; those that there are none of lack."""
    found = {"kl": float(divergence)}
    for name, chosen in (("chosen", labels), ("rejected", ~labels)):
        if bool(chosen.any()):
            found[f"{name}_reward"] = float(rewards[chosen].mean())
            found[f"{name}_log_prob"] = float(log_probs[chosen].mean())
    if "chosen_reward" in found and "rejected_reward" in found:
        found["margin"] = found["chosen_reward"] - found["rejected_reward"]
    return found


def imbalance(options: KTOOptions, labels: torch.Tensor) -> str:
    """Return a warning where good and bad answers don't weigh about the same; empty if they do."""
    good, bad = int(labels.sum()), int((~labels).sum())
    if not good or not bad:
        return f"All training rows are {'good' if good else 'bad'} answers; KTO learns from the contrast of both."
    share = options.desirable_weight * good / (options.undesirable_weight * bad)
    if BALANCE[0] * 0.95 <= share <= BALANCE[1] * 1.05:
        return ""
    low, high = (bound * options.undesirable_weight * bad / good for bound in BALANCE)
    return (
        f"{good} good and {bad} bad answers weigh {share:.2f} to 1; KTO's authors recommend 1 to 1.33: set "
        f"train.desirable_weight to {low:.2g} to {high:.2g}"
    )


class FeedbackValidation:
    """Loss and rewards of validation rows; the KL divergence is estimated on all of them together.

    Args:
        parts: the mismatched rows, and the reference's log-probabilities of the rows and of these.
        batch_tokens: tokens that may go through the model at once.
    """

    def __init__(
        self, model: LoadedModel, rows: TokenRows, parts: tuple[Any, ...], options: KTOOptions, batch_tokens: int
    ) -> None:
        self.model, self.rows, self.options, self.batch_tokens = model, rows, options, batch_tokens
        self.others, self.reference, self.other_reference = parts

    def __len__(self) -> int:
        return len(self.rows)

    def measure(self) -> dict[str, Any]:
        """Return `loss`, rewards, `kl` and `auc`, and the loss `by_source` where the rows have several sources.

        `auc` is the probability that a good answer has a higher reward than a bad one.
        """
        labels = torch.tensor(self.rows.table.column("label").to_pylist(), dtype=torch.bool)
        log_probs, divergence = self._log_probs(self.rows), torch.zeros((), dtype=torch.float64)
        if len(self.others):
            divergence = (self._log_probs(self.others) - self.other_reference).mean().clamp(min=0)
        ratios = log_probs - self.reference
        losses = row_losses(self.options, ratios, labels, divergence)
        values: dict[str, Any] = {"loss": float(losses.mean())}
        values |= figures_of(self.options.beta * ratios, log_probs, labels, divergence)
        if "margin" in values:
            beats = ratios[labels][:, None] - ratios[~labels][None]
            values["auc"] = float(((beats > 0).double() + 0.5 * (beats == 0).double()).mean())
        sources = self.rows.table.column("origin").to_pylist()
        if len(set(sources)) > 1:
            names = dict.fromkeys(sources)
            values["by_source"] = {n: float(losses[[source == n for source in sources]].mean()) for n in names}
        return values

    def _log_probs(self, rows: TokenRows) -> torch.Tensor:
        losses = shared_token_losses(self.model, rows, self.batch_tokens)
        return -torch.tensor([row.nll for row in losses], dtype=torch.float64)

    def rehearse(self) -> None:
        """Compute the log-probability of the longest row."""
        longest = self.rows.take([int(self.rows.lengths().argmax())])
        token_losses(self.model, longest, batch_tokens=self.batch_tokens)

    def sample(self, rows: int) -> tuple[FeedbackValidation, float]:
        """Return a validation on about so many rows of every length, and how many times its work the whole one is."""
        lengths = self.rows.lengths().tolist()
        at = spread(lengths, rows)
        others = self.others.take(at) if len(self.others) else self.others
        other_reference = None if self.other_reference is None else self.other_reference[at]
        parts = (others, self.reference[at], other_reference)
        part = FeedbackValidation(self.model, self.rows.take(at), parts, self.options, self.batch_tokens)
        return part, sum(lengths) / int(part.rows.lengths().sum())
