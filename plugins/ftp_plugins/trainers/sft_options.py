"""The options of supervised fine-tuning, and what they say of rows, rates and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.lm.learning_rates import rate_problem
from ftp.lm.tokens import TokenRows, tokenise
from ftp.lm.training.best_by import best_by_problem
from ftp.types import Kind
from ftp_plugins.trainers.row_lengths import Overlong, fit_rows

if TYPE_CHECKING:
    from ftp.recipe import Recipe


class SFTOptions(ftp.Trainer):
    """Options of supervised fine-tuning."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
    trains_together: ClassVar[bool] = True
    takes: ClassVar[tuple[Kind, ...]] = ("conversation", "text")
    also_known_as: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("num_train_epochs", "num_epochs", "n_epochs"), "epochs"),
        **dict.fromkeys(("lr", "peak_learning_rate"), "learning_rate"),
        **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size", "train_batch_size"), "batch_size"),
        **dict.fromkeys(("gradient_accumulation_steps", "grad_accum"), "gradient_accumulation"),
        **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), "schedule"),
        **dict.fromkeys(("warmup_ratio", "warmup_steps"), "warmup"),
        **dict.fromkeys(("sequence_len", "cutoff_len", "max_seq_length", "max_seq_len", "block_size"), "max_length"),
        **dict.fromkeys(("train_on_inputs", "train_on_prompt", "assistant_only_loss"), "loss_on"),
        **dict.fromkeys(("max_norm", "gradient_clipping", "clip_grad_norm"), "max_grad_norm"),
        **dict.fromkeys(("activation_checkpointing", "use_gradient_checkpointing"), "gradient_checkpointing"),
        "metric_for_best_model": "best_by",
    }

    epochs: float = Field(default=3, gt=0)
    """Passes over the training rows."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate. LoRA and QLoRA: usually 5e-5 to 2e-4; full training about a tenth of that."""
    batch_size: int = Field(default=8, ge=1)
    """Rows processed at once. Several processes share them out."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step. The loss is averaged over the tokens of the whole step: 4 batches of 8 rows and 32
    rows at once have the same result, and so have one process and several."""
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
    overlong: Overlong = "error"
    """What to do with a longer row; `split` cuts running text into several rows and stops at other long rows. All but
    error are noted in the ledger and told by `ftp run`."""
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
        """Tokenise rows, and drop, cut or split what can't be trained on as it is; the ledger records it.

        Returns:
            The rows that remain, with a column `origin`, the source of each.

        Raises:
            DataError: rows are longer than `max_length` and `overlong` doesn't say what to do with them.
        """
        tokens = tokenise(tokenizer, examples, self.loss_on, progress)
        return fit_rows(tokens, examples, self.max_length, self.overlong, self.used_as, ledger)
