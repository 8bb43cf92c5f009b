"""The options of every training by gradient steps: all that isn't the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.lm.learning_rates import rate_problem
from ftp.lm.training.best_by import best_by_problem

if TYPE_CHECKING:
    from ftp.recipe import Recipe
    from ftp_plugins.trainers.torch_objective import Objective


class LoopOptions(ftp.Trainer):
    """Options of a training by gradient steps, and what a trainer adds to them: its rows and its loss."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
    also_known_as: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("num_train_epochs", "num_epochs", "n_epochs"), "epochs"),
        **dict.fromkeys(("lr", "peak_learning_rate"), "learning_rate"),
        **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size", "train_batch_size"), "batch_size"),
        **dict.fromkeys(("gradient_accumulation_steps", "grad_accum"), "gradient_accumulation"),
        **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), "schedule"),
        **dict.fromkeys(("warmup_ratio", "warmup_steps"), "warmup"),
        **dict.fromkeys(("sequence_len", "cutoff_len", "max_seq_length", "max_seq_len", "block_size"), "max_length"),
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
    """The type in which float32 weights are multiplied. auto: bfloat16 where that is faster, which is measured.
    float32: always float32; losses then differ between machines in the last digits only."""
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
        problem = best_by_problem(self.best_by, recipe.evaluate, self.measures)
        return [f"best_by: {problem}"] if problem else []

    def warnings(self, recipe: Recipe) -> list[str]:
        problem = rate_problem(recipe.adapter, *self.peak_rate(), share=self.rate_share)
        return [f"learning_rate: {problem}"] if problem else []

    @abstractmethod
    def rows_of(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> Sized:
        """Tokenise rows, and drop, cut or split what can't be trained on as it is; the ledger records it."""

    @abstractmethod
    def objective(self, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> Objective:
        """Return the loss with the rows that it is taken on.

        Raises:
            DataError: no row is left to train on.
        """
