"""The loss of supervised fine-tuning: a mean over the trained tokens of an optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from datasets import Dataset

import ftp
from ftp.lm.tokens import TokenRows
from ftp.lm.training.torch_validation import RowValidation
from ftp_plugins.speed.torch_batches import Batches, padded_batch, shared_tokens, trained_in
from ftp_plugins.speed.torch_head import PLAIN, TokenLoss
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.trainers.torch_objective import Objective


class TokenObjective(Objective):
    """The mean loss of the trained tokens.

    Args:
        rows, validation_rows: tokenised rows, each with its `origin`.
        token_loss: the loss of each token from its logits; None for cross-entropy.
    """

    slow_path: ClassVar[str] = "TRL's slower path"

    def __init__(
        self, job: ftp.TrainingJob, rows: TokenRows, validation_rows: TokenRows, token_loss: TokenLoss | None
    ) -> None:
        lengths, trained = rows.lengths().tolist(), int(rows.trained_counts().sum())
        super().__init__(job, Dataset(rows.table), rows, lengths, trained, bool(validation_rows))
        self.validation_rows, self.token_loss = validation_rows, token_loss

    def batches(self, batch_size: int, seed: int, accumulated: int = 1) -> Batches:
        """Return batches in which rows that share a prefix meet, where the fast path computes it once."""
        if self.path is None:
            return super().batches(batch_size, seed, accumulated)
        return self.path.plan_batches(self.tokens, batch_size, seed)

    def shared_tokens(self, path: FastPath, batch_size: int, seed: int) -> int:
        """Count the tokens of an epoch that are computed together with those of another row of their step."""
        if path.separately is not None:
            return 0
        return shared_tokens(self.tokens, path.plan_batches(self.tokens, batch_size, seed).of(0))

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pack the rows where the fast path takes them, and pad them elsewhere."""
        if self.path is not None:
            return self.path.collate(rows)
        return padded_batch(rows, self.job.model.tokenizer.pad_token_id)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Count the trained tokens."""
        return trained_in(batch)

    def loss(self, model: Any, batch: Mapping[str, Any], count: Any) -> torch.Tensor | None:
        """Return the summed loss over the trained tokens of the step."""
        share: torch.Tensor
        if self.path is not None:
            share = self.path.loss(batch) / count
            return share
        if self.token_loss is None and "weights" not in batch:
            return None
        token_loss = self.token_loss or PLAIN
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        targets = batch["labels"][:, 1:]
        trained = targets != -100
        losses = token_loss(logits[:, :-1][trained].float(), targets[trained])
        if "weights" in batch:
            losses = losses * batch["weights"][:, None].expand_as(targets)[trained]
        share = losses.sum() / count
        return share

    def validation(self, batch_tokens: int) -> RowValidation:
        """Return the loss of each token of the validation rows, in nats."""
        return RowValidation(self.job.model, self.validation_rows, batch_tokens)
