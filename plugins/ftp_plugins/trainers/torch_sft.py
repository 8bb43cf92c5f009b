"""TRL's SFT trainer with FTP's batches, loss and parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import TrainerCallback

import ftp
from ftp.lm.tokens import TokenRows
from ftp.lm.training.torch_parts import TrainingParts
from ftp.lm.training.torch_trainer import TrainerWithParts, weight_types_kept
from ftp.lm.training.torch_validation import RowValidation
from ftp_plugins.speed.torch_batches import Batches, packed_batch, padded_batch, trained_in
from ftp_plugins.speed.torch_head import TokenLoss
from ftp_plugins.speed.torch_path import FastPath


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
