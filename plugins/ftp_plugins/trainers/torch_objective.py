"""The loss of a training, as a part of the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

import ftp
from ftp.lm.tokens import TokenRows
from ftp.lm.training.torch_validation import Validation
from ftp_plugins.speed.torch_batches import Batches
from ftp_plugins.speed.torch_head import TokenLoss
from ftp_plugins.speed.torch_path import FastPath


class Objective(ABC):
    """The loss of a training with the rows that it is taken on; `LoopTrainer` does everything else.

    What one step's loss means is the objective's alone: a row of the dataset may be a conversation, a pair of answers
    or a prompt.

    Args:
        job: what to train, and whom to tell.
        dataset: the training rows, an entry each; `collate` gets several of them. A `datasets.Dataset`.
        tokens: every sequence that goes through the model; the fast path is tried on some of them.
        lengths: tokens of each entry of the dataset.
        trained_tokens: tokens of the dataset that carry loss.
        validates: whether there are validation rows.
    """

    figures: tuple[str, ...] = ()
    """Names of what `step_figures` returns; the event `metric` carries them."""
    loss_unit: ClassVar[str] = "nats per token"
    """The unit of the loss, in words."""
    slow_path: ClassVar[str] = "the slower path of padded batches"
    """What the training uses where the fast path is off, in words."""
    repeats: int = 1
    """How many optimizer steps in a row are taken on the same entries."""
    token_loss: TokenLoss | None = None
    """The loss of each token, where it is not cross-entropy; the fast path is tried with it."""
    path: FastPath | None = None
    """FTP's own path through the model, set before the first batch; None for the model's own forward."""

    autocast: bool = False
    """Whether the library multiplies in bfloat16 in the model's own forward; set with `path`."""

    def __init__(
        self,
        job: ftp.TrainingJob,
        dataset: Any,
        tokens: TokenRows,
        lengths: Sequence[int],
        trained_tokens: int,
        validates: bool,
    ) -> None:
        if not len(dataset):
            raise ftp.DataError(["train: no row is left to train on; the ledger says why"])
        self.job, self.dataset, self.tokens = job, dataset, tokens
        self.lengths, self.trained_tokens, self.validates = list(lengths), trained_tokens, validates

    def begin(self) -> None:  # noqa: B027 (most losses need nothing)
        """Compute what the loss needs of the model as it is before the first step; called in every process."""

    def batches(self, batch_size: int, seed: int, accumulated: int = 1) -> Batches:
        """Return the assignment of entries to batches, once `path` is set.

        Args:
            accumulated: batches of an optimizer step.
        """
        alike = self.path is None
        return Batches(self.lengths, batch_size, seed, alike, repeats=self.repeats, together=accumulated)

    def shared_tokens(self, path: FastPath, batch_size: int, seed: int) -> int:
        """Count the tokens of an epoch that the fast path computes together with those of another row of their step."""
        return 0

    def prepare(self, batches: Sequence[dict[str, Any]], step: int, rehearsal: bool) -> None:  # noqa: B027
        """Complete the batches of an optimizer step by what depends on the model as it is now.

        Called before `count`, once for a step.

        Args:
            step: number of the step that the batches are for, from 1.
            rehearsal: whether the step is not going to be taken.
        """

    def save(self, directory: Path) -> None:  # noqa: B027
        """Write into a checkpoint what the next steps need beside model and optimizer."""

    def load(self, directory: Path) -> None:  # noqa: B027
        """Read what `save` has written."""

    @abstractmethod
    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of entries of the dataset: tensors, and `tokens`, the number of tokens in it."""

    @abstractmethod
    def count(self, batch: Mapping[str, Any]) -> int:
        """Count what the loss is a mean over in a batch, such as tokens or pairs."""

    def loss(self, model: Any, batch: Mapping[str, Any], count: Any) -> torch.Tensor | None:
        """Return the share of a batch in the loss of its optimizer step, or None for TRL's loss of supervised rows.

        Args:
            count: the sum of `count` over the batches of the step.
        """
        return None

    def step_figures(self) -> Mapping[str, float]:
        """Return the `figures` of the batches since the last call."""
        return {}

    def validation(self, batch_tokens: int) -> Validation | None:
        """Return what measures the model on the validation rows; None without any.

        Args:
            batch_tokens: tokens that may go through the model at once.
        """
        return None
