"""Supervised fine-tuning on TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.files import first_few
from ftp.lm.learning_rates import rate_problem
from ftp.lm.tokens import TokenRows, tokenise
from ftp.lm.training.best_by import best_by_problem
from ftp.types import Kind

if TYPE_CHECKING:
    from ftp.recipe import Recipe


class SFT(ftp.Trainer):
    """Supervised fine-tuning (TRL). Loss on answers only; rows are packed without padding and don't see each other."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
    takes: ClassVar[tuple[Kind, ...]] = ("conversation", "text")

    epochs: float = Field(default=3, gt=0)
    """Passes over the training rows."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate. LoRA and QLoRA: usually 5e-5 to 2e-4; full training about a tenth of that."""
    batch_size: int = Field(default=8, ge=1)
    """Rows processed at once, on each device."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step. The loss is averaged over the tokens of the whole step."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """The schedule of the learning rate after the warm-up."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    max_length: int = Field(default=1024, ge=8)
    """Longest row in tokens."""
    overlong: Literal["error", "drop", "truncate"] = "error"
    """What to do with a longer row; dropped and truncated rows are recorded in the ledger."""
    loss_on: Literal["answers", "all"] = "answers"
    """Which tokens of a conversation are trained: the assistant's with the token that ends them, or all."""
    evals_per_epoch: float = Field(default=2, gt=0)
    """How often the validation loss is computed. The state with the lowest one is kept."""
    best_by: str = "loss"
    """What makes a state the best: `loss` (validation), or an evaluator of the recipe such as `exact_match` or
    `rouge.rougeL`, scored on the model's answers to `dev_rows` validation rows. Higher scores are better, lower losses
    are better."""
    dev_rows: int = Field(default=50, ge=1)
    """Validation rows that are answered and scored each time, unless `best_by` is loss."""
    checkpoint_minutes: float = Field(default=30, gt=0)
    """A checkpoint to resume from is saved after every validation, and after this many minutes without one."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    speed: Literal["auto", "off"] = "auto"
    """auto: FTP's fast path if the model allows it (packed rows, loss only at labels, fast layers), with a note if it
    doesn't. off: TRL's."""
    precision: Literal["auto", "float32"] = "auto"
    """The type in which float32 weights are multiplied. auto: bfloat16 if the hardware supports it. float32: always
    float32, which is slower there; losses then differ between machines in the last digits only."""
    deterministic: bool = False
    """The same seed on the same machine gives bitwise identical weights; this is slower on a GPU."""

    def tokenise(
        self, corpus: ftp.Corpus, tokenizer: ftp.LoadedTokenizer, ledger: ftp.Ledger, progress: Callable[[int], None]
    ) -> None:
        if self.deterministic:
            from ftp.lm.training.torch_deterministic import fix_cublas

            fix_cublas()  # the base model answers before it is trained
        for examples in (corpus.train, corpus.validation):
            self.rows_of(examples, tokenizer, ledger, progress)

    def train(self, job: ftp.TrainingJob) -> ftp.TrainResult:
        from ftp_plugins.trainers.torch_sft import train_sft

        return train_sft(self, job)

    def plan(self, job: ftp.TrainingJob) -> Mapping[str, Any]:
        from ftp_plugins.trainers.torch_estimate import estimate

        return estimate(self, job)

    def range_test(self, job: ftp.TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any]:
        from ftp_plugins.trainers.torch_rate_range import range_test

        return range_test(self, job, low, high, steps)

    def peak_rate(self) -> tuple[float, int]:
        return self.learning_rate, self.batch_size * self.gradient_accumulation

    def cross_problems(self, recipe: Recipe) -> list[str]:
        problem = best_by_problem(self.best_by, recipe.evaluate)
        return [f"best_by: {problem}"] if problem else []

    def warnings(self, recipe: Recipe) -> list[str]:
        problem = rate_problem(recipe.adapter, *self.peak_rate())
        return [f"learning_rate: {problem}"] if problem else []

    def token_loss(self) -> Callable[[Any, Any], Any] | None:
        """Return the function that gives the loss of each token, or None for cross-entropy.

        Override it in a subclass to train with another loss: `contrib/ftp-focal` is one. The function takes logits,
        float32 [n, vocabulary], and targets, int64 [n], and returns the losses [n], differentiable; the loss of an
        optimizer step is their mean over all its trained tokens. The validation loss stays the negative log-likelihood.
        """
        return None

    def rows_of(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> TokenRows:
        """Tokenise rows, drop or cut overlong ones, drop those without a trained token, and record this in the ledger.

        Returns:
            The rows that remain, with a column `origin`, the source of each.

        Raises:
            DataError: rows are longer than `max_length` and `overlong` is `error`.
        """
        name = self.used_as
        tokens = tokenise(tokenizer, examples, self.loss_on, progress)
        lengths = tokens.lengths()
        cut = tokens.cut(self.max_length) if self.overlong == "truncate" else tokens
        # A loss is taken on predicting a token from those before it, so the first one never counts.
        learns = cut.trained_counts(skip=1) > 0
        kept: list[int] = []
        overlong: list[str] = []
        counts = zip(examples.column("id"), lengths, cut.lengths(), cut.trained_counts(), learns, strict=True)
        for index, (id, whole, length, trained, learnt) in enumerate(counts):
            if length > self.max_length and self.overlong == "error":
                overlong.append(f"{id}: {length} tokens, max_length is {self.max_length}")
            elif length > self.max_length:
                ledger.drop(id, by=name, reason=f"longer than {self.max_length} tokens")
            elif not learnt:
                ledger.drop(id, by=name, reason="no trained token")
            else:
                if length < whole:
                    ledger.truncate(id, by=name, reason=f"cut to {self.max_length} tokens")
                ledger.count_tokens(id, int(length), int(trained))
                kept.append(index)
        if overlong:
            listed = first_few(overlong, 10, f"more rows; the longest has {lengths.max()} tokens")
            raise ftp.DataError([*listed, "Raise train.max_length, or set train.overlong: drop or truncate."])
        origins = examples.column("origin")
        rows = cut if len(kept) == len(cut) else cut.take(kept)
        return TokenRows(rows.table.append_column("origin", [[origins[index] for index in kept]]))
