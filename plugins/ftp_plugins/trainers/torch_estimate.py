"""What a training will take: counts that are known before it, time and memory from a few real steps."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

import ftp
from ftp.lm import allocator
from ftp.lm.torch_losses import token_losses
from ftp_plugins.speed.torch_batches import trained_in
from ftp_plugins.speed.torch_layers import weights_changed
from ftp_plugins.trainers.torch_loop import loop_class
from ftp_plugins.trainers.torch_memory import peak_memory_mb

if TYPE_CHECKING:
    from ftp_plugins.trainers.sft import SFT

TIMED = 6
"""Steps that are timed."""


def figures(loop: Any) -> dict[str, int]:
    """What is known of a training before its first step. `_mb` is in 10^6 bytes.

    `checkpoint_mb` is a checkpoint to go on from: the weights that train and AdamW's two values for each of them.
    `best_mb` is the best state, those weights alone. New ones are whole before the old ones go.
    """
    model, args = loop.job.model.model, loop.args
    steps_per_epoch = math.ceil(len(loop.batches) / args.gradient_accumulation_steps)
    steps = max(1, math.ceil(steps_per_epoch * args.num_train_epochs))
    training = [weight for weight in model.parameters() if weight.requires_grad]
    weights = sum(weight.numel() * weight.element_size() for weight in training)
    trained = int(loop.rows.trained_counts().sum())
    taken = math.ceil(steps / args.save_steps)  # times that the trainer stops to evaluate and to save
    return {
        "steps": steps,
        "rows": len(loop.rows),
        "tokens_per_epoch": int(loop.rows.lengths().sum()),
        "trained_tokens_per_epoch": trained,
        "trained_tokens": round(trained * steps / steps_per_epoch),
        "trainable_parameters": sum(weight.numel() for weight in training),
        "total_parameters": model.num_parameters(),
        "validation_rows": len(loop.watched),
        "evaluations": taken + 1 if loop.watched else 0,
        "checkpoints": taken + 1,
        "checkpoint_mb": math.ceil(3 * weights / 1e6),
        "best_mb": math.ceil(weights / 1e6) if loop.watched else 0,
    }


def estimate(trainer: SFT, job: ftp.TrainingJob) -> dict[str, Any]:
    """The figures of a training with its time and memory, from the rehearsal and a few real steps.

    `seconds` is the time between the rehearsal and the end: a line through the times of batches of different sizes
    (seconds on tokens), the optimizer's steps, the validations and the checkpoints. `memory_mb` is the peak of this
    process after the largest batch, the timed steps, a validation and a save. On a CPU the heap grows over a training,
    to about half as much again, until what is free in it is given back: `memory_most_mb`.
    """
    model = job.model.model
    with contextlib.ExitStack() as stack:
        loop = trainer.make_loop(job, _rehearsal_class(), stack)
        planned = figures(loop)
        with contextlib.suppress(_Rehearsed):
            loop.train()
        memory = peak_memory_mb(loop.args.device)
        timed = loop.timed
        batches = -(-planned["rows"] // trainer.batch_size) * trainer.epochs
        tokens = planned["tokens_per_epoch"] * trainer.epochs
        parts = {
            "batches": timed["per_batch"] * batches + timed["per_token"] * tokens,
            "optimizer": timed["optimizer_step"] * planned["steps"],
            "validation": timed["validation"] * planned["evaluations"],
            "checkpoints": timed["checkpoint"] * planned["checkpoints"],
        }
    model.eval()
    model.zero_grad()
    return {
        **planned,
        "seconds": sum(parts.values()),
        "seconds_of": parts,
        "rehearsal_seconds": loop.rehearsal_seconds,
        "tokens_per_second": tokens / (parts["batches"] + parts["optimizer"]),
        "memory_mb": memory,
        "memory_most_mb": memory * (allocator.Growth.MOST if loop.args.device.type == "cpu" else 1),
        "timed": timed["steps"],
        "not_counted": [
            "what both models make of the eval sets",
            *([f"the answers to {trainer.dev_rows} rows at each validation"] if trainer.best_by != "loss" else []),
        ],
    }


class _Rehearsed(Exception):  # noqa: N818 (nothing went wrong)
    """Leaves the training when everything is measured."""


@functools.cache
def _rehearsal_class() -> Any:
    class Rehearsal(loop_class()):  # type: ignore[misc]
        """A training that ends before its first step."""

        def rehearse(self) -> None:
            began = time.perf_counter()
            super().rehearse()
            self.rehearsal_seconds = time.perf_counter() - began
            self.timed = _timed(self)
            raise _Rehearsed

    return Rehearsal


def _timed(loop: Any) -> dict[str, Any]:
    """Seconds of batches, of an optimizer step with a rate of 0, of a validation and of a checkpoint."""
    steps: list[dict[str, float]] = []
    optimizer_steps: list[float] = []
    seconds = functools.partial(_seconds, loop.args.device)
    rates = [group["lr"] for group in loop.optimizer.param_groups]
    for group in loop.optimizer.param_groups:
        group["lr"] = 0.0 * group["lr"]
    with torch.random.fork_rng():
        samples = itertools.cycle(_samples(loop.batches.of(0), loop.batches.lengths))
        for rows in itertools.islice(samples, TIMED):
            inputs = loop.collate([loop.train_dataset[row] for row in rows])
            tokens, count = inputs["tokens"], torch.tensor(trained_in(inputs), device=loop.args.device)
            taken = seconds(functools.partial(loop.training_step, loop.model_wrapped, inputs, count))
            steps.append({"tokens": tokens, "seconds": taken})
            optimizer_steps.append(seconds(functools.partial(_optimizer_step, loop)))
        checkpoint = seconds(lambda: loop._save_checkpoint(loop.model_wrapped, None))
        validation = _validation(loop, seconds) if loop.watched else 0.0
    for group, rate in zip(loop.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    loop.optimizer.state.clear()
    per_batch, per_token = fitted(steps)
    # The first step makes the optimizer's state.
    optimizer = optimizer_steps[1:]
    return {
        "per_batch": per_batch,
        "per_token": per_token,
        "optimizer_step": sum(optimizer) / len(optimizer),
        "validation": validation,
        "checkpoint": checkpoint,
        "steps": steps,
    }


def _seconds(device: Any, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _optimizer_step(loop: Any) -> None:
    loop._clip_grad_norm(loop.model_wrapped)
    loop.optimizer.step()
    weights_changed()
    loop.model_wrapped.zero_grad()


def _validation(loop: Any, seconds: Callable[[Callable[[], Any]], float]) -> float:
    """Seconds of a validation, from rows of every length that make a batch or two."""
    lengths = loop.watched.lengths()
    order = sorted(range(len(lengths)), key=lambda row: int(lengths[row]))
    sample = order[:: max(1, len(order) // (2 * loop.batches.batch_size))]
    rows = loop.watched.take(sample)
    taken = seconds(lambda: token_losses(loop.job.model, rows, batch_tokens=loop.largest_batch()))
    return taken * int(lengths.sum()) / int(rows.lengths().sum())


def _samples(batches: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Batches of an epoch to time, from the smallest to the largest, and half of one where all are alike."""
    sizes = [sum(lengths[row] for row in batch) for batch in batches]
    ranked = sorted(range(len(batches)), key=lambda at: sizes[at])
    positions = sorted({round(n * (len(ranked) - 1) / (TIMED - 1)) for n in range(TIMED)})
    chosen = [batches[ranked[at]] for at in positions]
    largest = chosen[-1]
    if sizes[ranked[0]] > 0.6 * sizes[ranked[-1]] and len(largest) > 1:
        chosen.insert(0, largest[: len(largest) // 2])
    return chosen


def fitted(steps: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Seconds a batch and seconds a token: the least-squares line through `seconds` on `tokens`.

    Where noise makes one of them negative, or all batches are of one size, the line goes through the origin.
    """
    tokens, seconds = [step["tokens"] for step in steps], [step["seconds"] for step in steps]
    middle = sum(tokens) / len(tokens)
    spread = math.fsum((token - middle) ** 2 for token in tokens)
    if spread:
        slope = math.fsum((t - middle) * s for t, s in zip(tokens, seconds, strict=True)) / spread
        start = sum(seconds) / len(seconds) - slope * middle
        if slope > 0 and start >= 0:
            return start, slope
    return 0.0, sum(seconds) / sum(tokens)
