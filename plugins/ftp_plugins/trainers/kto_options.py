"""The options of KTO, and what they say of rows, rates and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data.examples import Examples, JudgedAnswers
from ftp.lm.tokens import TokenRows, tokenise
from ftp.types import Kind
from ftp_plugins.trainers.loop import LoopTraining
from ftp_plugins.trainers.pair_rows import OverlongAnswer
from ftp_plugins.trainers.row_lengths import fit_rows


class KTOOptions(LoopTraining):
    """Options of training on judged answers, and the rows that it trains on."""

    takes: ClassVar[tuple[Kind, ...]] = ("feedback",)
    trains_together: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("loss", "margin", "auc")
    rate_share: ClassVar[float] = 0.1
    also_known_as: ClassVar[Mapping[str, str]] = {
        **LoopTraining.also_known_as,
        **dict.fromkeys(("kto_beta", "pref_beta", "rl_beta"), "beta"),
        **dict.fromkeys(("kto_desirable_weight", "kto_chosen_weight"), "desirable_weight"),
        **dict.fromkeys(("kto_undesirable_weight", "kto_rejected_weight"), "undesirable_weight"),
        "loss_type": "loss",
    }

    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`kto`; or `apo_zero_unpaired`, anchored without a KL estimate (D'Oosterlinck et al. 2024, arXiv:2408.06266)."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the model is held to the reference: the scale of the log-ratios."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the good answers. With it and the next, (weight times number) of the good answers should be 1 to 4/3
    times that of the bad ones, as KTO's authors recommend."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the bad answers."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the training rows."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak rate, about a tenth of that of supervised fine-tuning. LoRA and QLoRA: usually 5e-6 to 2e-5; full training
    about a tenth of that."""
    batch_size: int = Field(default=8, ge=2)
    """Rows processed at once. The KL divergence is estimated on all rows of an optimizer step."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step. The loss is averaged over the rows of the whole step."""
    max_length: int = Field(default=1024, ge=8)
    """Longest prompt with answer, in tokens."""
    overlong: OverlongAnswer = "error"
    """What to do with a longer row. `drop` and `truncate` are noted in the ledger and told by `ftp run`."""
    best_by: str = "loss"
    """What makes a state the best: `loss`, `margin` or `auc` of the validation rows, or an evaluator of the recipe.
    Higher is better, except for losses."""

    def rows_of(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> TokenRows:
        """Tokenise rows, and drop or cut what can't be trained on as it is; the ledger records it.

        Returns:
            The rows that remain, with columns `origin` and `label`.

        Raises:
            DataError: rows are longer than `max_length` and `overlong` doesn't say what to do with them.
        """
        tokens = tokenise(tokenizer, JudgedAnswers(examples), progress=progress)
        columns = ("origin", "label")
        return fit_rows(tokens, examples, self.max_length, self.overlong, self.used_as, ledger, columns)
