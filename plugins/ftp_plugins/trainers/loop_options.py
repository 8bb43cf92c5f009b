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
from ftp_plugins.trainers.optimizers import NamedOptimizer, optimizer_named
from ftp_plugins.trainers.schedules import READ_BY, Schedule, ShareOrSteps

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
        **dict.fromkeys(("optim", "optimizer_type", "optimizer_name"), "optimizer"),
        **dict.fromkeys(("adam_beta1", "adam_beta2", "optim_args"), "optimizer.betas"),
        "adam_epsilon": "optimizer.eps",
        **dict.fromkeys(("loraplus_ratio", "lora_plus_ratio", "loraplus_lr_embedding"), "loraplus_lr_ratio"),
        **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), "schedule"),
        **dict.fromkeys(("warmup_ratio", "warmup_steps", "lr_warmup_steps", "num_warmup_steps"), "warmup"),
        **dict.fromkeys(("cosine_min_lr_ratio", "min_lr", "min_lr_rate", "min_lr_scale"), "min_lr_ratio"),
        **dict.fromkeys(("num_cycles", "restarts"), "cycles"),
        **dict.fromkeys(("num_decay_steps", "decay_steps", "decay_ratio"), "decay"),
        **dict.fromkeys(("max_train_steps", "num_training_steps", "total_steps"), "max_steps"),
        **dict.fromkeys(("neftune_alpha", "neftune", "noise_alpha"), "neftune_noise_alpha"),
        **dict.fromkeys(("save_interval", "checkpoint_steps"), "save_steps"),
        **dict.fromkeys(("save_total_limit", "max_checkpoints"), "save_total"),
        **dict.fromkeys(("eval_steps", "evaluation_strategy", "eval_strategy"), "evals_per_epoch"),
        **dict.fromkeys(("sequence_len", "cutoff_len", "max_seq_length", "max_seq_len", "block_size"), "max_length"),
        **dict.fromkeys(("max_norm", "gradient_clipping", "clip_grad_norm"), "max_grad_norm"),
        **dict.fromkeys(("activation_checkpointing", "use_gradient_checkpointing"), "gradient_checkpointing"),
        "metric_for_best_model": "best_by",
    }

    epochs: float = Field(default=3, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Number of optimizer steps, in place of `epochs`."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate. LoRA and QLoRA: usually 5e-5 to 2e-4; full training about a tenth of that."""
    batch_size: int = Field(default=8, ge=1)
    """Rows processed at once. Several processes share them out."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step. The loss is averaged over the tokens of the whole step: 4 batches of 8 rows and 32
    rows at once have the same result, and so have one process and several."""
    optimizer: NamedOptimizer = "adamw"
    """The optimizer: its name, or a block with its settings such as `{name: adamw, betas: [0.9, 0.95]}`."""
    schedule: Schedule = "linear"
    """The schedule of the learning rate after the warm-up. `wsd` stays at the peak and falls at the end, by a root
    (Hägele et al. 2024, arXiv:2405.18392)."""
    warmup: ShareOrSteps = 0.05
    """Share of the steps over which the rate rises from 0, or their number: 0.05, 100."""
    min_lr_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Where `cosine` and `wsd` end, as a share of the peak rate."""
    cycles: int = Field(default=2, ge=1)
    """How often the rate of `cosine_with_restarts` falls to 0."""
    decay: ShareOrSteps = 0.1
    """Share of the steps over which the rate of `wsd` falls, or their number."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of all weights but norms and biases, decoupled from the gradient except with sgd."""
    loraplus_lr_ratio: float | None = Field(default=None, gt=0)
    """LoRA+: how many times as high the rate of the factors B is as that of A, such as 16 (Hayou et al. 2024,
    arXiv:2402.12354). Default: one rate for both."""
    neftune_noise_alpha: float | None = Field(default=None, gt=0)
    """NEFTune: size of the noise on the embeddings of training rows, such as 5 (Jain et al. 2023, arXiv:2310.05914).
    Default: none. Prefixes of rows are then computed separately."""
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
    save_steps: int | None = Field(default=None, ge=1)
    """Save a checkpoint every so many steps, in place of every validation."""
    save_total: int = Field(default=1, ge=1)
    """How many checkpoints are kept: the newest ones, each with its best state."""
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

    def problems(self) -> list[str]:
        fields = type(self).model_fields
        found = optimizer_named(self.optimizer).problems()
        for option, schedules in READ_BY.items():
            if self.schedule not in schedules and getattr(self, option) != fields[option].default:
                found.append(f"{option}: is read by the schedule {' and '.join(schedules)}; remove it")
        if self.max_steps is not None and self.epochs != fields["epochs"].default:
            found.append("epochs: max_steps says how long to train; remove one of the two")
        return found

    def cross_problems(self, recipe: Recipe) -> list[str]:
        found = []
        if problem := best_by_problem(self.best_by, recipe.evaluate, self.measures):
            found.append(f"best_by: {problem}")
        if self.loraplus_lr_ratio is not None and recipe.adapter.saves_whole_model:
            what = f"'{recipe.adapter.used_as}' trains no factors A and B"
            found.append(f"loraplus_lr_ratio: {what}; use lora, or remove it")
        return found

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
