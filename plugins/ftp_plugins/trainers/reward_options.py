"""The options of the training of a reward model, and the pairs that it trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.types import Kind
from ftp_plugins.trainers.loop import LoopTraining
from ftp_plugins.trainers.pair_rows import OverlongAnswer, PairRows, pairs_of


class RewardOptions(LoopTraining):
    """Options of the training of a reward model, and the pairs that it trains on."""

    takes: ClassVar[tuple[Kind, ...]] = ("preference",)
    measures: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin")
    also_known_as: ClassVar[Mapping[str, str]] = {
        **LoopTraining.also_known_as,
        **dict.fromkeys(("center_rewards", "centering_coefficient"), "center_rewards_coefficient"),
    }

    center_rewards_coefficient: float | None = Field(default=None, gt=0)
    """Weight of the squared sum of both rewards, which keeps rewards around 0, such as 0.01 (Eisenstein et al. 2023,
    arXiv:2312.09244)."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the training pairs."""
    batch_size: int = Field(default=8, ge=1)
    """Pairs processed at once."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step. The loss is averaged over the pairs of the whole step."""
    max_length: int = Field(default=1024, ge=8)
    """Longest prompt with answer, in tokens."""
    overlong: OverlongAnswer = "error"
    """What to do with a pair of which an answer is longer. `drop` and `truncate` are noted in the ledger and told by
    `ftp run`."""
    best_by: str = "loss"
    """What makes a state the best: `loss`, `accuracy` or `margin` of the validation pairs. Higher is better, except
    for the loss."""

    def rows_of(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> PairRows:
        """Tokenise pairs, and drop or cut what can't be trained on as it is; the ledger records it.

        Raises:
            DataError: answers are longer than `max_length` and `overlong` doesn't say what to do with them.
        """
        return pairs_of(examples, tokenizer, self.max_length, self.overlong, self.used_as, ledger, progress)
