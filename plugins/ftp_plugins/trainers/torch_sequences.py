"""Losses on the log-probabilities of whole answers: what they share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ftp.lm.tokens import TokenRows
from ftp.lm.training.torch_processes import current
from ftp_plugins.speed.torch_batches import padded_batch
from ftp_plugins.trainers.torch_objective import Objective
from ftp_plugins.trainers.torch_reference import reference_log_probs


class StepMeans:
    """Means over an optimizer step of figures that its batches give as means of their own, over all processes.

    Args:
        names: of the figures; a batch need not have all of them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.sums, self.weights = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)

    def add(self, means: Mapping[str, float], weight: int) -> None:
        """Count in the means of a batch; `weight` is the number of its entries."""
        for name, mean in means.items():
            self.sums[name] += mean * weight
            self.weights[name] += weight

    def take(self) -> dict[str, float]:
        """Return the mean of each figure that any process has, and begin anew. Every process has to call it."""
        found = current().sums(*self.sums.values(), *self.weights.values())
        self.sums, self.weights = dict.fromkeys(self.names, 0.0), dict.fromkeys(self.names, 0)
        sums, weights = found[: len(self.names)], found[len(self.names) :]
        return {name: value / n for name, value, n in zip(self.names, sums, weights, strict=True) if n}


class SequenceObjective(Objective):
    """A loss on the log-probability of whole answers, by the fast path or by the model's own forward."""

    def batch_tokens(self, batch_size: int) -> int:
        """Return the number of tokens of the largest batch that training can meet."""
        return sum(sorted(self.lengths)[-batch_size:])

    def reference_of(self, rows: TokenRows, batch_size: int, training: bool) -> torch.Tensor:
        """Return the log-probability of each answer under the model before its first step, float64 [rows].

        The rows are shared out over the processes.

        Args:
            training: whether to multiply as the training does; validations don't go through the library's autocast.
        """
        how = f"packed {self.path.compute}" if self.path is not None else f"padded {training and self.autocast}"
        began, most, processes = time.monotonic(), self.batch_tokens(batch_size), current()
        own = list(range(len(rows)))[processes.rank :: processes.count]
        part = rows.take(own) if processes.count > 1 else rows
        found = torch.zeros(len(rows), dtype=torch.float64)
        with torch.autocast(self.job.model.model.device.type, torch.bfloat16, enabled=training and self.autocast):
            share = reference_log_probs(self.job.model, part, batch_tokens=most, how=how) if own else []
        for rank, values in enumerate(processes.from_all(list(map(float, share)))):
            found[rank :: processes.count] = torch.tensor(values, dtype=torch.float64)
        self.job.emit("reference", rows=len(rows), seconds=time.monotonic() - began)
        return found

    def sequences(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate sequences of `input_ids` and `trained`.

        `answer_tokens`, int64 [rows], counts those that carry loss; `tokens` counts all of the batch.
        """
        if self.path is not None:
            batch = self.path.collate(rows)
        else:
            batch = padded_batch(rows, self.job.model.tokenizer.pad_token_id)
        return {**batch, "answer_tokens": torch.tensor([sum(row["trained"][1:]) for row in rows])}

    def log_probs(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the log-probability of each answer of a batch of `sequences`, in nats, float32 [rows].

        On both paths only the states that predict a trained token are compared with their targets.
        """
        if self.path is not None:
            of_tokens = self.path.log_probs(batch)
        else:
            mask = batch["attention_mask"]
            logits = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
            targets = batch["labels"][:, 1:]
            trained = targets != -100
            chosen = logits[:, :-1][trained].float()
            of_tokens = -torch.nn.functional.cross_entropy(chosen, targets[trained], reduction="none")
        return torch.stack([part.sum() for part in torch.split(of_tokens, batch["answer_tokens"].tolist())])
