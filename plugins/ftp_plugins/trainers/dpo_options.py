"""The options of preference optimisation, and what they say of pairs, rates and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

import ftp
from ftp.data.examples import Examples
from ftp.types import Kind
from ftp_plugins.trainers.loop import LoopTraining
from ftp_plugins.trainers.pair_rows import OverlongAnswer, PairRows, pairs_of

if TYPE_CHECKING:
    from ftp.recipe import Recipe

PairLoss = Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down", "simpo", "orpo"]
READ_BY: Mapping[str, tuple[PairLoss, ...]] = {
    "label_smoothing": ("sigmoid", "robust", "simpo"),
    "simpo_margin": ("simpo",),
}
"""The losses that read an option; the others read all."""


class DPOOptions(LoopTraining):
    """Options of preference optimisation, and the pairs that it trains on."""

    takes: ClassVar[tuple[Kind, ...]] = ("preference",)
    trains_together: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin")
    rate_share: ClassVar[float] = 0.1
    also_known_as: ClassVar[Mapping[str, str]] = {
        **LoopTraining.also_known_as,
        **dict.fromkeys(("loss_type", "pref_loss", "dpo_loss", "rl"), "loss"),
        **dict.fromkeys(("pref_beta", "rl_beta", "dpo_beta", "orpo_alpha"), "beta"),
        **dict.fromkeys(("dpo_label_smoothing",), "label_smoothing"),
        **dict.fromkeys(("simpo_gamma", "cpo_simpo_gamma", "gamma_beta_ratio"), "simpo_margin"),
        **dict.fromkeys(("rpo_alpha", "pref_ftx", "cpo_alpha", "loss_weights"), "sft_weight"),
    }

    loss: PairLoss = "sigmoid"
    """The kind of loss."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the model is held to the reference: the scale of the log-ratios. `simpo`: the scale of the
    rewards, usually 2 to 10. `orpo`: the weight of the odds ratio."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of preferences taken to be wrong; for sigmoid, robust and simpo."""
    simpo_margin: float = Field(default=0.5, ge=0)
    """simpo: the margin (gamma) by which the chosen answer's reward should exceed the other's."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the chosen answer's own loss, in nats per token, added to the loss (as in RPO, Pang et al. 2024,
    arXiv:2404.19733). It keeps the chosen answer's probability from falling."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the training pairs."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak rate, about a tenth of that of supervised fine-tuning. LoRA and QLoRA: usually 5e-6 to 2e-5; full training
    about a tenth of that."""
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
    """What makes a state the best: `loss`, `accuracy` or `margin` of the validation pairs, or an evaluator of the
    recipe. The loss is the steadiest: accuracy moves in steps of one pair, and the margin grows when the model
    overfits. Higher is better, except for losses."""

    @model_validator(mode="after")
    def _reads_every_option(self) -> Self:
        given = {"label_smoothing": self.label_smoothing, "simpo_margin": self.simpo_margin}
        for name, losses in READ_BY.items():
            if self.loss not in losses and given[name] != type(self).model_fields[name].default:
                raise ValueError(f"'{name}' is read by the loss {' and '.join(losses)}, not by '{self.loss}'")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("'robust' needs 'label_smoothing', the share of wrong preferences; else take 'sigmoid'")
        if self.loss == "orpo" and self.sft_weight:
            raise ValueError("'orpo' has the chosen answer's loss in it already; take 'sft_weight' out")
        return self

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the model with what it was before training."""
        return self.loss not in ("simpo", "orpo")

    def warnings(self, recipe: Recipe) -> list[str]:
        found = super().warnings(recipe)
        if self.loss == "simpo" and self.beta < 1:
            found.append(f"beta: SimPO's authors use 2 to 10; {self.beta:g} hardly tells two answers apart")
        return found

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
