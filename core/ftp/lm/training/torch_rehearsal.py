"""A rehearsal of everything that a training does, on the largest batch, before its first step."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch

from ftp.errors import ModelError
from ftp.lm.training.torch_checkpoints import load_weights
from ftp.lm.training.torch_memory import peak_memory_mb, too_much_memory
from ftp.lm.training.torch_processes import current


def rehearse(trainer: Any) -> None:
    """Take the largest batch forward and backward, an optimizer step, a validation, a save and a reload.

    Errors that would otherwise occur hours into the run occur here. Weights, optimizer and random state are restored.

    Args:
        trainer: a `TrainerWithParts` whose optimizer exists, as in `on_train_begin`.

    Raises:
        ModelError: the batch doesn't fit into memory, or a checkpoint can't be written or read.
    """
    began = time.monotonic()
    parts, model = trainer.parts, trainer.parts.job.model.model
    batch = parts.longest_rows(trainer.args.per_device_train_batch_size)
    with torch.random.fork_rng(), too_much_memory(len(batch), parts.lengths[batch[0]]):
        _forward_and_backward(trainer, batch)
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad.zero_()
        _step_at_rate_zero(trainer.optimizer)
        _validate(trainer)
        if current().first and parts.weights_are_finite():  # the first step reports weights that are not
            _save_and_reload(trainer)
    trainer.optimizer.state.clear()
    model.zero_grad()
    parts.progress.tokens, parts.progress.seconds = 0, 0.0
    parts.job.emit(
        "rehearsal",
        rows=len(batch),
        tokens=parts.largest_batch(trainer.args.per_device_train_batch_size),
        seconds=time.monotonic() - began,
        memory_mb=peak_memory_mb(trainer.args.device),
    )


def _forward_and_backward(trainer: Any, batch: list[int]) -> None:
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in batch])
    count = trainer.items_in([inputs])
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model_wrapped, inputs, count)
    trainer.log({})  # TRL averages metrics of its own between two logs: not over this batch


def _step_at_rate_zero(optimizer: Any) -> None:
    """Create the optimizer's state without changing a weight."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0 * group["lr"]  # a rate may be a tensor
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _validate(trainer: Any) -> None:
    if trainer.parts.validation is not None:
        trainer.parts.validation.rehearse()
    elif trainer.eval_dataset is not None:
        model = trainer.model_wrapped
        model.eval()
        trainer.prediction_step(model, trainer.data_collator([trainer.eval_dataset[0]]), prediction_loss_only=True)
        trainer.log({})
        model.train()


def _save_and_reload(trainer: Any) -> None:
    """Save and reload, away from the checkpoints: the optimizer's state is that of a step that is never taken."""
    checkpoints, model = trainer.parts.checkpoints, trainer.parts.job.model.model
    with checkpoints.new("rehearsal") as directory:
        trainer.write_state(directory)
    saved = checkpoints.directory / "rehearsal"
    before = {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}
    load_weights(saved, model)
    for name, weight in model.named_parameters():
        if name in before and not torch.equal(weight, before[name]):
            raise ModelError(f"{saved}: '{name}' differs from what was saved")
    shutil.rmtree(saved)
