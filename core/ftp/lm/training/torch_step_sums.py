"""The sum of an optimizer step over all processes: gradients, loss and tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ftp.lm.training.torch_processes import Processes


class StepSums:
    """Adds up the batches of an optimizer step, over the accumulation and over all processes.

    The loss of a batch has to be divided by the count of the whole step over all processes.

    Args:
        trainer: a `transformers.Trainer`; its accelerator knows which batch is the last of a step.
    """

    def __init__(self, trainer: Any, processes: Processes) -> None:
        self.trainer, self.processes = trainer, processes
        self.loss, self.tokens, self.batches = 0.0, 0, 0

    def add(self, loss: torch.Tensor, tokens: int) -> tuple[torch.Tensor, int]:
        """Return the loss and the tokens that a batch adds to what the trainer counts.

        With several processes that is nothing before the last batch of the step, and there the sum over all; the
        gradients are summed then too.
        """
        if self.processes.count == 1:
            return loss, tokens
        self.loss, self.tokens, self.batches = self.loss + float(loss), self.tokens + tokens, self.batches + 1
        if not self.trainer.accelerator.sync_gradients:
            return torch.zeros_like(loss), 0
        self.processes.sum_gradients(self.trainer.model.parameters())
        total, counted = self.processes.sums(self.loss, self.tokens)
        self.loss, self.tokens, self.batches = 0.0, 0, 0
        return torch.full_like(loss, total), int(counted)

    @contextlib.contextmanager
    def own_random_numbers(self) -> Iterator[None]:
        """Draw dropout masks that no other process draws, and that depend on seed, step and process alone.

        One process alone goes on with its sequence.
        """
        if self.processes.count == 1:
            yield
            return
        batch = self.trainer.state.global_step * 4096 + self.batches
        with torch.random.fork_rng():
            torch.manual_seed((self.trainer.args.seed * 1_000_003 + batch) * self.processes.count + self.processes.rank)
            yield
