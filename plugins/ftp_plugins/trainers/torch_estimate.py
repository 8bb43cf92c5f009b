"""Estimate the time and memory of a training from a few real steps."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import ftp
from ftp.lm import allocator
from ftp.lm.training.torch_memory import peak_memory_mb
from ftp.lm.training.torch_run import planned_figures
from ftp_plugins.trainers.loop_options import LoopOptions
from ftp_plugins.trainers.torch_loop import LoopTrainer, products_of, ready_trainer

TIMED = 6
"""Steps that are timed."""


class Measured(Exception):  # noqa: N818 (nothing went wrong)
    """Leaves the training once everything is measured."""


class MeasuredTrainer(LoopTrainer):
    """A training that ends before its first step."""

    rehearsal_seconds: float
    timed: Mapping[str, Any]

    def rehearse(self) -> None:
        """Rehearse, measure, and leave."""
        began = time.perf_counter()
        super().rehearse()
        self.rehearsal_seconds = time.perf_counter() - began
        self.timed = _timed(self)
        raise Measured


def estimate(options: LoopOptions, job: ftp.TrainingJob) -> dict[str, Any]:
    """Return the figures of a training with its time and memory, from the rehearsal and a few real steps.

    `seconds` is the time between the rehearsal and the end: a line through the times of batches of different sizes
    (seconds on tokens), the optimizer's steps, the validations and the checkpoints. `measured_mb` is the peak of this
    process after the largest batch, the timed steps, a validation and a save. On a CPU the heap grows during a training
    until its free memory is returned to the system; `memory_mb` is the peak with that growth.
    """
    with ready_trainer(MeasuredTrainer, options, job) as trainer:
        return {**_measured(trainer), **_shared(trainer), **products_of(options, job.model)}


def _shared(trainer: LoopTrainer) -> dict[str, int]:
    """Return how many tokens of an epoch are computed together with those of another row; nothing off the fast path."""
    if trainer.path is None:
        return {}
    batch_size, seed = trainer.args.per_device_train_batch_size, trainer.args.seed
    return {"shared_tokens": trainer.objective.shared_tokens(trainer.path, batch_size, seed)}


def _measured(trainer: MeasuredTrainer) -> dict[str, Any]:
    parts, args, model = trainer.parts, trainer.args, trainer.parts.job.model.model
    planned = planned_figures(trainer)
    with contextlib.suppress(Measured):
        trainer.train()
    memory = peak_memory_mb(args.device)
    timed = trainer.timed
    epochs = planned["steps"] / trainer.steps_per_epoch() if args.max_steps > 0 else args.num_train_epochs
    batches = len(trainer.batches) * epochs
    tokens = planned["tokens_per_epoch"] * epochs
    seconds_of = {
        "batches": timed["per_batch"] * batches + timed["per_token"] * tokens,
        "optimizer": timed["optimizer_step"] * planned["steps"],
        "validation": timed["validation"] * planned["evaluations"],
        "checkpoints": timed["checkpoint"] * planned["checkpoints"],
    }
    model.eval()
    model.zero_grad()
    return {
        **planned,
        "seconds": sum(seconds_of.values()),
        "seconds_of": seconds_of,
        "rehearsal_seconds": trainer.rehearsal_seconds,
        "tokens_per_second": tokens / (seconds_of["batches"] + seconds_of["optimizer"]),
        "memory_mb": memory * _heap_growth(args.device, planned["steps"]),
        "measured_mb": memory,
        "timed": timed["steps"],
        "not_counted": [
            "running both models on the eval sets",
            *([f"the answers to {parts.dev_rows} rows at each validation"] if parts.best_by != "loss" else []),
        ],
    }


def _heap_growth(device: Any, steps: int) -> float:
    """Return how many times as large the process becomes over a training as after a few steps."""
    if device.type != "cpu":
        return 1.0
    return 1 + (allocator.Growth.USUAL - 1) * min(1, steps / allocator.Growth.WITHIN)


def _timed(trainer: LoopTrainer) -> dict[str, Any]:
    """Return the seconds of batches, of an optimizer step with a rate of 0, of a validation and of a checkpoint."""
    steps: list[dict[str, float]] = []
    optimizer_steps: list[float] = []
    seconds = functools.partial(_seconds, trainer.args.device)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0 * group["lr"]
    with torch.random.fork_rng():
        samples = itertools.cycle(batches_to_time(trainer.batches.of(0), trainer.batches.lengths))
        for rows in itertools.islice(samples, TIMED):
            inputs = trainer.data_collator([trainer.train_dataset[row] for row in rows])
            tokens = inputs["tokens"]
            taken = seconds(functools.partial(_training_step, trainer, inputs))
            steps.append({"tokens": tokens, "seconds": taken})
            optimizer_steps.append(seconds(functools.partial(_optimizer_step, trainer)))
        checkpoint = seconds(trainer.save_checkpoint)
        validation = _validation_seconds(trainer) if trainer.parts.validation is not None else 0.0
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    trainer.optimizer.state.clear()
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


def _training_step(trainer: LoopTrainer, inputs: dict[str, Any]) -> None:
    trainer.training_step(trainer.model_wrapped, inputs, trainer.items_in([inputs]))


def _optimizer_step(trainer: LoopTrainer) -> None:
    trainer._clip_grad_norm(trainer.model_wrapped)
    trainer.optimizer.step()
    if trainer.path is not None:
        trainer.path.weights_changed()
    trainer.model_wrapped.zero_grad()


def _validation_seconds(trainer: LoopTrainer) -> float:
    """Return the seconds of a validation, estimated from rows of every length that make a batch or two."""
    assert trainer.parts.validation is not None
    sample, times = trainer.parts.validation.sample(2 * trainer.batches.batch_size)
    return _seconds(trainer.args.device, sample.measure) * times


def batches_to_time(batches: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Return batches of an epoch to time, from the smallest to the largest, and half of one if all are alike."""
    sizes = [sum(lengths[row] for row in batch) for batch in batches]
    ranked = sorted(range(len(batches)), key=sizes.__getitem__)
    positions = sorted({round(n * (len(ranked) - 1) / (TIMED - 1)) for n in range(TIMED)})
    chosen = [batches[ranked[position]] for position in positions]
    largest = chosen[-1]
    if sizes[ranked[0]] > 0.6 * sizes[ranked[-1]] and len(largest) > 1:
        chosen.insert(0, largest[: len(largest) // 2])
    return chosen


def fitted(steps: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return seconds per batch and seconds per token: the least-squares line through `seconds` on `tokens`.

    If noise makes one of them negative, or all batches have the same size, the line goes through the origin.
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
