"""The choice of the next token: the most likely one, or one drawn by temperature and top-p."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import torch

from ftp.options import AnswerOptions


class Numbered(Protocol):
    """A row of a batch."""

    @property
    def number(self) -> int:
        """The row's number among the prompts."""


class Chooser:
    """Chooses the next token of each row.

    Every row draws from a generator of its own, seeded with `options.seed` and its number: what is drawn for a prompt
    doesn't depend on the prompts that are answered beside it.
    """

    def __init__(self, options: AnswerOptions) -> None:
        self.temperature, self.top_p, self.seed = options.temperature, options.top_p, options.seed
        self._draws: dict[int, random.Random] = {}

    def __call__(self, logits: torch.Tensor, rows: Sequence[Numbered]) -> list[int]:
        """Return a token for each row.

        Args:
            logits: float32 [rows, vocabulary].
        """
        if self.temperature == 0:
            chosen: list[int] = logits.argmax(-1).tolist()
            return chosen
        draws = [self._draws.setdefault(row.number, random.Random(f"{self.seed} {row.number}")) for row in rows]
        return drawn(logits / self.temperature, self.top_p, torch.tensor([draw.random() for draw in draws]))


def drawn(logits: torch.Tensor, top_p: float, uniform: torch.Tensor) -> list[int]:
    """Draw a token for each row by inverting the cumulative distribution.

    Args:
        logits: float32 [rows, vocabulary].
        top_p: only the most likely tokens that have this probability together are drawn (Holtzman et al. 2020,
            arXiv:1904.09751).
        uniform: float [rows], each from 0 up to but not including 1.
    """
    odds, tokens = torch.softmax(logits, -1).sort(descending=True, stable=True)
    before = odds.cumsum(-1) - odds
    odds = odds.masked_fill(before >= top_p, 0)
    until = odds.cumsum(-1)
    place = torch.searchsorted(until, uniform.to(until)[:, None] * until[:, -1:], right=True)
    last = (odds > 0).sum(-1, keepdim=True) - 1  # rounding may put the place behind the last that counts
    found: list[int] = tokens.gather(-1, torch.minimum(place, last))[:, 0].tolist()
    return found
