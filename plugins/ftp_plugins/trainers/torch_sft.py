"""TRL's SFT trainer with FTP's batches, loss and parts."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import trl
from datasets import Dataset
from transformers import TrainerCallback

import ftp
from ftp.lm.rendering import stop_ids
from ftp.lm.tokens import TokenRows
from ftp.lm.torch_devices import multiplies_bfloat16
from ftp.lm.training.torch_deterministic import deterministic
from ftp.lm.training.torch_parts import TrainingParts
from ftp.lm.training.torch_run import train
from ftp.lm.training.torch_trainer import TrainerWithParts, weight_types_kept
from ftp.lm.training.torch_validation import RowValidation
from ftp_plugins.speed.torch_batches import Batches, packed_batch, padded_batch, trained_in
from ftp_plugins.speed.torch_head import TokenLoss
from ftp_plugins.speed.torch_layers import without_fast_layers
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.trainers.sft_options import SFTOptions

T = TypeVar("T", bound="SFTTrainer")


class SFTTrainer(TrainerWithParts, trl.SFTTrainer):  # type: ignore[misc]
    """One training run.

    Args:
        job: what to train, and whom to tell.
        rows, validation_rows: tokenised rows, each with its `origin`.
        path: FTP's own path through the model; None for the model's own forward on padded batches.
        token_loss: the loss of each token from its logits; None for cross-entropy.
        options: of `TrainingParts`.
    """

    def __init__(
        self,
        job: ftp.TrainingJob,
        args: Any,
        rows: TokenRows,
        validation_rows: TokenRows,
        path: FastPath | None,
        token_loss: TokenLoss | None,
        **options: Any,
    ) -> None:
        self.rows, self.path, self.token_loss = rows, path, token_loss
        lengths: list[int] = rows.lengths().tolist()
        self.batches = Batches(lengths, args.per_device_train_batch_size, args.seed, path is None)
        collate: Callable[..., Any] = packed_batch
        if path is None:
            collate = functools.partial(padded_batch, pad=job.model.tokenizer.pad_token_id)
        self.optimizer: Any
        self.lr_scheduler: Any
        with weight_types_kept(job.model.model):
            super().__init__(
                model=job.model.model,
                args=args,
                train_dataset=Dataset(rows.table),
                eval_dataset=Dataset(validation_rows[:1].table) if validation_rows else None,
                data_collator=collate,
                processing_class=job.model.tokenizer,
            )
        parts = TrainingParts(job, lengths, int(rows.trained_counts().sum()), **options)
        if validation_rows:
            batch_tokens = parts.largest_batch(args.per_device_train_batch_size)
            parts.validation = RowValidation(job.model, validation_rows, batch_tokens)
        self.use_parts(parts)
        if path is not None:
            self.add_callback(CopiesFollow(path))
        if path is not None or token_loss is not None:
            self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> Any:
        """Return batches whose rows are a function of the seed and the epoch alone."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip
        return self.accelerator.prepare(loader)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        count = torch.tensor(sum(map(trained_in, batch_samples)), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def count_tokens(self, inputs: Mapping[str, Any]) -> int:
        """Return the count that came with the batch."""
        return int(inputs.pop("tokens"))  # type: ignore[attr-defined]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Keep attention inside each row where rows are packed."""
        if self.path is None:
            return super().training_step(model, inputs, num_items_in_batch)
        with self.path.attention():
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss over the trained tokens of the whole optimizer step."""
        if self.path is not None:
            return self.path.loss(inputs) / num_items_in_batch
        if self.token_loss is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
        targets = inputs["labels"][:, 1:]
        trained = targets != -100
        return self.token_loss(logits[:, :-1][trained].float(), targets[trained]).sum() / num_items_in_batch

    @contextlib.contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Take the fast layers out of the model inside the block, too: some multiply in bfloat16."""
        with super().as_evaluated(), without_fast_layers(self.parts.job.model.model):
            yield

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.path is not None:
            self.path.weights_changed()


class CopiesFollow(TrainerCallback):  # type: ignore[misc]
    """Reports every optimizer step to the fast path."""

    def __init__(self, path: FastPath) -> None:
        self.path = path

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.path.weights_changed()


def train_sft(options: SFTOptions, job: ftp.TrainingJob) -> ftp.TrainResult:
    """Train as the options say and return the best state."""
    with ready_trainer(SFTTrainer, options, job) as trainer:
        return train(trainer)


@contextlib.contextmanager
def ready_trainer(kind: type[T], options: SFTOptions, job: ftp.TrainingJob) -> Iterator[T]:
    """Give a trainer of the class `kind` that is ready to train; the model is as before when the block ends.

    Raises:
        DataError: no row is left to train on.
    """
    model, tokenizer = job.model.model, job.model.tokenizer
    loaded = ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, model.generation_config.eos_token_id))
    rows = options.rows_of(job.corpus.train, loaded, job.ledger)
    validation_rows = options.rows_of(job.corpus.validation, loaded, job.ledger)
    if not rows:
        raise ftp.DataError(["train: no row is left to train on; the ledger says why"])
    with deterministic(options.deterministic), fast_path(options, job, rows) as path:
        trainer = kind(
            job,
            training_arguments(options, job, len(rows), bool(validation_rows), autocast=path is None),
            rows,
            validation_rows,
            path,
            options.token_loss(),
            best_by=options.best_by,
            dev_rows=options.dev_rows,
            checkpoint_minutes=options.checkpoint_minutes,
        )
        try:
            yield trainer
        finally:
            # Accelerate leaves its bfloat16 autocast around forward; the base answered without it.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


@contextlib.contextmanager
def fast_path(options: SFTOptions, job: ftp.TrainingJob, rows: TokenRows) -> Iterator[FastPath | None]:
    """Give FTP's own path with its layers put in while the block lasts, or None with a note why not."""
    if options.speed == "off":
        job.emit("speed", on=[], why_not="speed: off")
        yield None
        return
    model = job.model.model
    why_not = FastPath.why_not(model, longest=int(rows.lengths().max()))
    if why_not is None:
        # Weights of the model itself that train in float32, and no adapter beside them.
        mixes = multiplies_in_bfloat16(options, model) and not hasattr(model, "peft_config")
        path = FastPath(model, torch.bfloat16 if mixes else torch.float32, options.token_loss())
        why_not = path.disagrees(rows)
    if why_not is None:
        with path.layers() as layers:
            job.emit("speed", on=["packed rows", "loss only at labels", *layers], why_not=None)
            yield path
        return
    job.emit("speed", on=[], why_not=why_not)
    job.emit("note", text=f"The fast path is off, because {why_not}; training uses TRL's slower path.")
    yield None


def multiplies_in_bfloat16(options: SFTOptions, model: Any) -> bool:
    """Whether a model's float32 weights multiply in bfloat16; others do in their own type."""
    wanted = options.precision == "auto" and model.dtype == torch.float32
    return wanted and multiplies_bfloat16(model.device.type)


def training_arguments(options: SFTOptions, job: ftp.TrainingJob, rows: int, validates: bool, autocast: bool) -> Any:
    """Return the library's arguments for these options.

    Args:
        rows: to train on.
        validates: whether there are validation rows.
        autocast: whether the library shall multiply in bfloat16 where that is quicker.
    """
    model = job.model.model
    steps_per_epoch = math.ceil(math.ceil(rows / options.batch_size) / options.gradient_accumulation)
    steps = max(1, math.ceil(steps_per_epoch * options.epochs))
    every = max(1, round(steps_per_epoch / options.evals_per_epoch))
    on_cpu = model.device.type == "cpu"
    return trl.SFTConfig(
        output_dir=str(job.directory),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule if options.schedule != "constant" else "constant_with_warmup",
        warmup_steps=round(options.warmup * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        activation_checkpointing=options.gradient_checkpointing,
        bf16=autocast and multiplies_in_bfloat16(options, model),
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
