"""Supervised fine-tuning on TRL's SFTTrainer."""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.answers import padded, token_losses
from ftp.examples import Examples
from ftp.rendering import Tokens, stop_ids
from ftp.tokens import TokenRows, tokenise
from ftp.types import Kind


class SFT(ftp.Trainer):
    """Supervised fine-tuning (TRL). Loss on answers only, in batches of rows of like length."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
    takes: ClassVar[tuple[Kind, ...]] = ("conversation", "text")

    epochs: float = Field(default=3, gt=0)
    """Passes over the training rows."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate. LoRA and QLoRA: usually 5e-5 to 2e-4; full training about a tenth of that."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in memory at once, on each device."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches to an optimizer step. The loss is that of the whole step's tokens."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate goes on after the warm-up."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    max_length: int = Field(default=1024, ge=8)
    """Longest row in tokens."""
    overlong: Literal["error", "drop", "truncate"] = "error"
    """What to do with a longer row; drop and truncate are noted in the ledger."""
    loss_on: Literal["answers", "all"] = "answers"
    """Which tokens of a conversation carry loss: the assistant's with the token that ends them, or all."""
    evals_per_epoch: float = Field(default=2, gt=0)
    """How often the validation loss is taken. The state with the lowest one is kept."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def tokenise(
        self, corpus: ftp.Corpus, tokenizer: ftp.LoadedTokenizer, ledger: ftp.Ledger, progress: Callable[[int], None]
    ) -> None:
        for examples in (corpus.train, corpus.validation):
            self._rows(examples, tokenizer, ledger, progress)

    def train(self, job: ftp.TrainingJob) -> ftp.TrainResult:
        import torch
        import trl
        from datasets import Dataset
        from transformers import PrinterCallback

        model, tokenizer = job.model.model, job.model.tokenizer
        loaded = ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, model.generation_config.eos_token_id))
        rows = self._rows(job.corpus.train, loaded, job.ledger)
        watched = self._rows(job.corpus.validation, loaded, job.ledger)
        if not rows:
            raise ftp.DataError(["train: no row is left to train on; the ledger says why"])

        checkpoints = job.directory
        shutil.rmtree(checkpoints, ignore_errors=True)
        steps_per_epoch = math.ceil(math.ceil(len(rows) / self.batch_size) / self.gradient_accumulation)
        steps = max(1, math.ceil(steps_per_epoch * self.epochs))
        every = max(1, round(steps_per_epoch / self.evals_per_epoch))
        on_cpu = model.device.type == "cpu"
        args = trl.SFTConfig(
            output_dir=str(checkpoints),
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
            # float32 weights (full training) multiply in bfloat16 where the hardware does; others are in their type.
            bf16=model.dtype == torch.float32 and _multiplies_bfloat16(model.device.type),
            use_cpu=on_cpu,
            max_length=None,  # lengths were settled above, row by row
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps" if watched else "no",
            eval_on_start=bool(watched),
            eval_steps=every,
            save_strategy="steps" if watched else "no",
            save_steps=every,
            save_total_limit=1,
            save_only_model=True,
            load_best_model_at_end=bool(watched),
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=not on_cpu,
            seed=job.seed,
            data_seed=job.seed,
        )
        trainer = _trainer_class()(
            model=model,
            args=args,
            train_dataset=Dataset(rows.table.append_column("length", [rows.lengths()])),
            eval_dataset=Dataset(watched[:1].table) if watched else None,
            data_collator=functools.partial(_batch, pad=tokenizer.pad_token_id),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.watch(job, watched)
        trained = int(rows.trained_counts().sum())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        job.emit(
            "plan",
            steps=steps,
            rows=len(rows),
            tokens_per_epoch=int(rows.lengths().sum()),
            trained_tokens_per_epoch=trained,
            trainable_parameters=trainable,
            total_parameters=model.num_parameters(),
        )
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
        done = trainer.state.global_step
        best = int(trainer.state.best_global_step or 0) if watched else done
        if watched:
            job.emit("best", step=best, loss=trainer.state.best_metric)
            if trainer.state.best_metric > trainer.first_loss:
                job.emit(
                    "note",
                    text=f"Training never brought the validation loss below the base model's: {trainer.first_loss:.4f} "
                    f"before, {trainer.state.best_metric:.4f} at best.",
                )
        # Accelerate leaves its bfloat16 autocast around forward; the base answered without it.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        model.eval()
        shutil.rmtree(checkpoints, ignore_errors=True)  # the best one is in memory, and soon in model/
        return ftp.TrainResult(
            model=job.model,
            steps=done,
            best_step=best,
            trained_tokens=round(trained * self.epochs),
            seconds=seconds,
            trainable_parameters=trainable,
            total_parameters=model.num_parameters(),
        )

    def _rows(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> TokenRows:
        """Tokenise; settle overlong rows and rows without a trained token; tell the ledger."""
        name = self.used_as
        tokens = tokenise(tokenizer, examples, self.loss_on, progress)
        lengths = tokens.lengths()
        cut = tokens.cut(self.max_length) if self.overlong == "truncate" else tokens
        # A loss is taken on predicting a token from those before it, so the first one never counts.
        learns = cut.trained_counts(skip=1) > 0
        kept: list[int] = []
        overlong: list[str] = []
        counts = zip(examples.column("id"), lengths, cut.lengths(), cut.trained_counts(), learns, strict=True)
        for at, (id, whole, length, trained, learnt) in enumerate(counts):
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
                kept.append(at)
        if overlong:
            more = len(overlong) - 10
            raise ftp.DataError(
                [
                    *overlong[:10],
                    *([f"… and {more} more rows; the longest has {lengths.max()} tokens"] if more > 0 else []),
                    "Raise train.max_length, or say train.overlong: drop or truncate.",
                ]
            )
        return cut if len(kept) == len(cut) else cut.take(kept)


def _batch(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, Any]:
    """Rows of like length as one batch: int64 tensors [rows, longest], padded on the right."""
    ids, mask = padded([row["input_ids"] for row in rows], pad, side="right")
    labels, _ = padded([Tokens(row["input_ids"], row["trained"]).labels for row in rows], -100, side="right")
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _multiplies_bfloat16(device: str) -> bool:
    from ftp_plugins.loaders.weights import pick_dtype

    return pick_dtype(device) == "bfloat16"


def _trainer_class() -> Any:
    """SFTTrainer with our validation loss and our events; made here because importing TRL takes seconds."""
    import trl

    class Trainer(trl.SFTTrainer):  # type: ignore[misc]
        def watch(self, job: ftp.TrainingJob, watched: TokenRows) -> None:
            self.job, self.watched = job, watched
            self.first_loss = math.inf

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            """Mean loss per trained token of the validation rows, each token counted once.

            TRL's own is a mean of batch means, which weighs a token by the length of its neighbours.
            """
            found = token_losses(self.job.model, self.watched)
            loss = math.fsum(f.nll for f in found) / sum(f.tokens for f in found)
            self.job.emit("validation", step=self.state.global_step, epoch=self.state.epoch, loss=loss)
            if self.state.global_step == 0:
                self.first_loss = loss
            metrics = {"eval_loss": loss}
            self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs, start_time)
            if "loss" not in logs:
                return
            self.job.emit(
                "metric",
                step=self.state.global_step,
                epoch=self.state.epoch,
                loss=logs["loss"],
                grad_norm=logs.get("grad_norm"),
                learning_rate=logs.get("learning_rate"),
            )
            if not math.isfinite(logs["loss"]):
                raise ftp.ModelError(
                    f"the training loss is {logs['loss']} at step {self.state.global_step}; lower train.learning_rate, "
                    "or load the model in bfloat16 or float32"
                )

    return Trainer
