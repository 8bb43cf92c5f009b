"""Validation of a training by its own measure, and the usual one: the loss as a mean over tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from ftp.lm.tokens import TokenRows
from ftp.lm.torch_losses import token_losses
from ftp.lm.training.torch_processes import current
from ftp.types import LoadedModel, TokenLoss


class Validation(Protocol):
    """What measures a model on the validation rows of a training."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def measure(self) -> dict[str, Any]:
        """Return `loss`, which is better the lower it is, and further figures for the event `validation`."""

    def rehearse(self) -> None:
        """Measure the longest row, to find out whether it fits into memory."""

    def sample(self, rows: int) -> tuple[Validation, float]:
        """Return a validation on about so many rows of every length, and how many times its work the whole one is."""


class RowValidation:
    """Mean negative log-likelihood per trained token of tokenised rows, each token counted once, in nats.

    A trainer's own evaluation is often a mean of batch means, which weighs a token by the length of its neighbours.

    Args:
        rows: validation rows with a column `origin`, the source of each.
        batch_tokens: tokens that may go through the model at once; what training needs anyway is a good choice.
    """

    def __init__(self, model: LoadedModel, rows: TokenRows, batch_tokens: int) -> None:
        self.model, self.rows, self.batch_tokens = model, rows, batch_tokens

    def __len__(self) -> int:
        return len(self.rows)

    def measure(self) -> dict[str, Any]:
        """Return `loss`, and `by_source` where the rows have several sources."""
        losses = shared_token_losses(self.model, self.rows, self.batch_tokens)
        values: dict[str, Any] = {"loss": math.fsum(row.nll for row in losses) / sum(row.tokens for row in losses)}
        sources = self.rows.table.column("origin").to_pylist()
        if len(set(sources)) > 1:
            by_source = {}
            for name in dict.fromkeys(sources):
                own = [row for row, source in zip(losses, sources, strict=True) if source == name]
                by_source[name] = math.fsum(row.nll for row in own) / sum(row.tokens for row in own)
            values["by_source"] = by_source
        return values

    def rehearse(self) -> None:
        """Compute the loss of the longest row."""
        longest = int(self.rows.lengths().argmax())
        token_losses(self.model, self.rows.take([longest]), batch_tokens=self.batch_tokens)

    def sample(self, rows: int) -> tuple[RowValidation, float]:
        """Return a validation on about so many rows of every length, and how many times its work the whole one is."""
        lengths = self.rows.lengths().tolist()
        chosen = self.rows.take(spread(lengths, rows))
        return RowValidation(self.model, chosen, self.batch_tokens), sum(lengths) / int(chosen.lengths().sum())


def shared_token_losses(model: LoadedModel, rows: TokenRows, batch_tokens: int) -> list[TokenLoss]:
    """Return the loss of every row, computed by all processes: of the rows by length, each takes its turn.

    Every process has to call it, with the same rows.
    """
    processes = current()
    if processes.count == 1:
        return token_losses(model, rows, batch_tokens=batch_tokens)
    by_length = rows.lengths().argsort(kind="stable").tolist()
    own = by_length[processes.rank :: processes.count]
    losses = token_losses(model, rows.take(own), batch_tokens=batch_tokens) if own else []
    shares = processes.from_all(dict(zip(own, losses, strict=True)))
    of_row = {row: loss for share in shares for row, loss in share.items()}
    return [of_row[row] for row in range(len(rows))]


def spread(lengths: Sequence[int], count: int) -> list[int]:
    """Return the positions of about `count` rows, from the shortest to the longest."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return order[:: max(1, len(order) // count)]
