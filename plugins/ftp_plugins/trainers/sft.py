"""Supervised fine-tuning: its options, its rows and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.lm.tokens import TokenRows, tokenise
from ftp.types import Kind
from ftp_plugins.trainers.loop import LoopTraining
from ftp_plugins.trainers.row_lengths import Overlong, fit_rows

if TYPE_CHECKING:
    from ftp_plugins.trainers.torch_objective import Objective


class SFT(LoopTraining):
    """Supervised fine-tuning (TRL). Loss on answers only; rows are packed without padding and don't see each other."""

    takes: ClassVar[tuple[Kind, ...]] = ("conversation", "text")
    trains_together: ClassVar[bool] = True
    weighs_rows: ClassVar[bool] = True
    also_known_as: ClassVar[Mapping[str, str]] = {
        **LoopTraining.also_known_as,
        **dict.fromkeys(("train_on_inputs", "train_on_prompt", "assistant_only_loss"), "loss_on"),
        "label_smoothing_factor": "label_smoothing",
        **dict.fromkeys(("z_loss_coefficient", "z_loss_weight", "z_loss_multiplier"), "z_loss"),
    }

    overlong: Overlong = "error"
    """What to do with a longer row; `split` cuts running text into several rows and stops at other long rows. All but
    error are noted in the ledger and told by `ftp run`."""
    loss_on: Literal["answers", "all"] = "answers"
    """Which tokens of a conversation are trained: the assistant's with the token that ends them, or all."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016,
    arXiv:1512.00567). The validation loss has none."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared logarithm of the softmax's denominator, such as 1e-4, which keeps logits from drifting
    (Chowdhery et al. 2022, arXiv:2204.02311). The validation loss has none."""

    def problems(self) -> list[str]:
        found = super().problems()
        if type(self).token_loss is not SFT.token_loss:
            unread = [name for name in ("label_smoothing", "z_loss") if getattr(self, name)]
            found += [f"{name}: '{self.used_as}' has a loss of its own, which doesn't read it" for name in unread]
        return found

    def objective(self, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> Objective:
        from ftp_plugins.trainers.torch_sft import TokenObjective

        rows = self.rows_of(job.corpus.train, tokenizer, job.ledger)
        validation_rows = self.rows_of(job.corpus.validation, tokenizer, job.ledger)
        return TokenObjective(job, rows, validation_rows, self.token_loss())

    def token_loss(self) -> Callable[[Any, Any], Any] | None:
        """Return the function that gives the loss of each token, or None for cross-entropy.

        Override it in a subclass to train with another loss: `contrib/ftp-focal` is one. The function takes logits,
        float32 [n, vocabulary], and targets, int64 [n], and returns the losses [n], differentiable; the loss of an
        optimizer step is their mean over all its trained tokens. The validation loss stays the negative log-likelihood.
        """
        if not self.label_smoothing and not self.z_loss:
            return None
        from ftp_plugins.speed.torch_head import PenalisedLoss

        return PenalisedLoss(self.label_smoothing, self.z_loss)

    def rows_of(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> TokenRows:
        """Tokenise rows, and drop, cut or split what can't be trained on as it is; the ledger records it.

        Returns:
            The rows that remain, with columns `origin`, the source of each, and `weight`.

        Raises:
            DataError: rows are longer than `max_length` and `overlong` doesn't say what to do with them.
        """
        tokens = tokenise(tokenizer, examples, self.loss_on, progress)
        columns = ("origin", "weight")
        return fit_rows(tokens, examples, self.max_length, self.overlong, self.used_as, ledger, columns)
