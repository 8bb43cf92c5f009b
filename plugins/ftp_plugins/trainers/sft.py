"""Supervised fine-tuning on TRL's SFTTrainer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.lm.learning_rates import rate_problem
from ftp.lm.rendering import stop_ids
from ftp.lm.tokens import TokenRows, parts_of, tokenise
from ftp.lm.training.best_by import best_by_problem
from ftp.types import Kind

if TYPE_CHECKING:
    from ftp.recipe import Recipe
    from ftp_plugins.speed.torch_path import FastPath
    from ftp_plugins.trainers.torch_sft import SFTTrainer

T = TypeVar("T", bound="SFTTrainer")


class SFT(ftp.Trainer):
    """Supervised fine-tuning (TRL). Loss on answers only; rows are packed without padding and don't see each other."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
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
    overlong: Literal["error", "drop", "truncate", "split"] = "error"
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
    deterministic: bool = False
    """The same seed on the same machine gives bitwise identical weights; this is slower on a GPU."""

    def tokenise(
        self, corpus: ftp.Corpus, tokenizer: ftp.LoadedTokenizer, ledger: ftp.Ledger, progress: Callable[[int], None]
    ) -> None:
        if self.deterministic:
            from ftp.lm.training.torch_deterministic import fix_cublas

            fix_cublas()  # the base model answers before it is trained
        for examples in (corpus.train, corpus.validation):
            self._rows(examples, tokenizer, ledger, progress)

    def train(self, job: ftp.TrainingJob) -> ftp.TrainResult:
        from ftp.lm.training.torch_run import train
        from ftp_plugins.trainers.torch_sft import SFTTrainer

        with contextlib.ExitStack() as stack:
            return train(self.make_trainer(job, SFTTrainer, stack))

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

        For a component that is SFT with another loss. The function takes logits, float32 [n, vocabulary], and targets,
        int64 [n], and returns the losses [n], differentiable; the loss of an optimizer step is their mean over all its
        trained tokens. The validation loss stays the negative log-likelihood.
        """
        return None

    def plan(self, job: ftp.TrainingJob) -> Mapping[str, Any]:
        from ftp_plugins.trainers.torch_estimate import MeasuredTrainer, estimate

        with contextlib.ExitStack() as stack:
            return estimate(self.make_trainer(job, MeasuredTrainer, stack))

    def range_test(self, job: ftp.TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any]:
        import torch

        from ftp_plugins.trainers.torch_rate_range import RangeTrainer, range_test

        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            return range_test(self.make_trainer(job, RangeTrainer, stack), low, high, steps)

    def make_trainer(self, job: ftp.TrainingJob, kind: type[T], stack: contextlib.ExitStack) -> T:
        """Return a trainer of the class `kind`, ready to train; the model is restored when `stack` closes."""
        from ftp.lm.training.torch_deterministic import deterministic

        model, tokenizer = job.model.model, job.model.tokenizer
        loaded = ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, model.generation_config.eos_token_id))
        rows = self._rows(job.corpus.train, loaded, job.ledger)
        validation_rows = self._rows(job.corpus.validation, loaded, job.ledger)
        if not rows:
            raise ftp.DataError(["train: no row is left to train on; the ledger says why"])
        steps_per_epoch = math.ceil(math.ceil(len(rows) / self.batch_size) / self.gradient_accumulation)
        steps = max(1, math.ceil(steps_per_epoch * self.epochs))
        stack.enter_context(deterministic(self.deterministic))
        path = self._fast_path(job, rows, stack)
        trainer: Any = kind
        trainer = trainer(
            job,
            self._arguments(job, steps, steps_per_epoch, bool(validation_rows), autocast=path is None),
            rows,
            validation_rows,
            path,
            self.token_loss(),
            best_by=self.best_by,
            dev_rows=self.dev_rows,
            checkpoint_minutes=self.checkpoint_minutes,
        )
        # Accelerate leaves its bfloat16 autocast around forward; the base answered without it.
        stack.callback(trainer.accelerator.unwrap_model, model, keep_fp32_wrapper=False)
        made: T = trainer
        return made

    def _fast_path(self, job: ftp.TrainingJob, rows: TokenRows, stack: contextlib.ExitStack) -> FastPath | None:
        """Return FTP's fast path with its layers installed, or None and emit a note on the reason."""
        import torch

        from ftp_plugins.speed.torch_path import FastPath

        if self.speed == "off":
            job.emit("speed", on=[], why_not="speed: off")
            return None
        model = job.model.model
        why_not = FastPath.why_not(model)
        if why_not is None:
            mixes = self._trains_float32(model) and _multiplies_bfloat16(model.device.type)
            path = FastPath(model, torch.bfloat16 if mixes else torch.float32, self.token_loss())
            why_not = path.disagrees(rows)
            if why_not is None:
                layers = stack.enter_context(path.layers())
                job.emit("speed", on=["packed rows", "loss only at labels", *layers], why_not=None)
                return path
        job.emit("speed", on=[], why_not=why_not)
        job.emit("note", text=f"The fast path is off, because {why_not}; training uses TRL's slower path.")
        return None

    @staticmethod
    def _trains_float32(model: Any) -> bool:
        """Return whether the weights of the model itself train in float32, and no adapter beside them."""
        import torch

        return model.dtype == torch.float32 and not hasattr(model, "peft_config")

    def _arguments(
        self, job: ftp.TrainingJob, steps: int, steps_per_epoch: int, validates: bool, autocast: bool
    ) -> Any:
        import trl

        model = job.model.model
        every = max(1, round(steps_per_epoch / self.evals_per_epoch))
        on_cpu = model.device.type == "cpu"
        return trl.SFTConfig(
            output_dir=str(job.directory),
            num_train_epochs=self.epochs,
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation,
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.schedule if self.schedule != "constant" else "constant_with_warmup",
            warmup_steps=round(self.warmup * steps),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            activation_checkpointing=self.gradient_checkpointing,
            # float32 weights multiply in bfloat16 where the hardware does; others are in their type.
            bf16=autocast and str(model.dtype) == "torch.float32" and _multiplies_bfloat16(model.device.type),
            use_cpu=on_cpu,
            max_length=None,  # overlong rows are dropped or cut before
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            eval_strategy="steps" if validates else "no",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=not on_cpu,
            seed=job.seed,
            data_seed=job.seed,
        )

    def _rows(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> TokenRows:
        """Tokenise rows, drop or cut overlong ones, drop those without a trained token, and record this in the ledger.

        The rows that remain have a column `origin`, the source of each.
        """
        tokens = tokenise(tokenizer, examples, self.loss_on, progress)
        lengths = tokens.lengths().tolist()
        running = [not messages for table in examples.batches(["messages"]) for messages in table.column(0).to_pylist()]
        parts = [
            parts_of(length, self.max_length) if self.overlong == "split" and text else 1
            for length, text in zip(lengths, running, strict=True)
        ]
        self._refuse_overlong(examples, lengths, parts)
        cut = tokens.cut(self.max_length) if self.overlong == "truncate" else tokens
        kept = self._tell(examples, lengths, cut, parts, ledger)
        rows = cut if len(kept) == len(cut) else cut.take(kept)
        origins = examples.column("origin")
        named = [origins[index] for index in kept for _ in range(parts[index])]
        if len(named) > len(kept):
            rows = rows.split(self.max_length, [parts[index] for index in kept])
        return TokenRows(rows.table.append_column("origin", [named]))

    def _refuse_overlong(self, examples: Examples, lengths: Sequence[int], parts: Sequence[int]) -> None:
        """Raise DataError where there are rows that are too long and that nothing is to be done with."""
        if self.overlong not in ("error", "split"):
            return
        ids = examples.column("id")
        long = [at for at, (n, of) in enumerate(zip(lengths, parts, strict=True)) if n > self.max_length and of == 1]
        if long:
            few = [f"{ids[at]}: {lengths[at]} tokens, max_length is {self.max_length}" for at in long[:10]]
            more = len(long) - 10
            longest = max(lengths[at] for at in long)
            raise ftp.DataError(
                [
                    *few,
                    *([f"… and {more} more rows; the longest has {longest} tokens"] if more > 0 else []),
                    "Raise train.max_length, or say train.overlong: drop or truncate, or split for running text."
                    if self.overlong == "error"
                    else "Only running text is split. Raise train.max_length, or say train.overlong: drop or truncate.",
                ]
            )

    def _tell(
        self, examples: Examples, lengths: Sequence[int], cut: TokenRows, parts: Sequence[int], ledger: ftp.Ledger
    ) -> list[int]:
        """Tell the ledger what becomes of every row, and return the positions of those that are trained on."""
        name = self.used_as
        # A loss is taken on predicting a token from those before it, so the first one never counts.
        learns = cut.trained_counts(skip=1) > 0
        counts = zip(examples.column("id"), lengths, cut.lengths(), cut.trained_counts(), learns, parts, strict=True)
        kept: list[int] = []
        for index, (id, whole, length, trained, learnt, into) in enumerate(counts):
            if length > self.max_length and into == 1:
                ledger.drop(id, by=name, reason=f"longer than {self.max_length} tokens")
                ledger.count_tokens(id, 0, 0, lost=whole)
            elif not learnt:
                ledger.drop(id, by=name, reason="no trained token")
                ledger.count_tokens(id, 0, 0, lost=whole)
            else:
                if length < whole:
                    ledger.truncate(id, by=name, reason=f"cut to {self.max_length} tokens")
                elif into > 1:
                    ledger.split_up(id, by=name, reason=f"split into rows of at most {self.max_length} tokens")
                ledger.count_tokens(id, int(length), int(trained), lost=int(whole - length))
                kept.append(index)
        return kept


def _multiplies_bfloat16(device: str) -> bool:
    from ftp_plugins.loaders.weights import pick_dtype

    return bool(pick_dtype(device) == "bfloat16")
