"""The learning-rate range test: a short training in which the rate rises until the loss does.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

import ftp
from ftp.lm.learning_rates import rate_shown
from ftp_plugins.trainers.loop_options import LoopOptions
from ftp_plugins.trainers.torch_loop import LoopTrainer, ready_trainer

SMOOTHING = 0.9
"""Weight of the running mean so far in each step."""
DIVERGED = 1.5
"""The test ends when the smoothed loss is this many times its minimum. (fastai: 4, for losses that come near 0.)"""
FELL = 0.01
"""A relative fall of the loss smaller than this is not conclusive."""


class RangeTrainer(LoopTrainer):
    """A training with a rising rate that saves nothing and emits no events.

    `factor` multiplies the rate after each step; `bases` are the losses of the untrained model on each step's rows.
    """

    factor: float
    bases: list[float]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make a schedule that rises geometrically."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: self.factor**step)
        return self.lr_scheduler

    def rehearse(self) -> None:
        """Skip the rehearsal."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        pass

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the loss of a step, and end the training if it has diverged."""
        if "loss" not in logs:
            return
        step, start = len(self.losses), sum(self.bases) / len(self.bases)
        self.rates.append(logs["learning_rate"])
        self.losses.append(logs["loss"])
        self.smoothed.append(running_mean(self.smoothed, logs["loss"] - self.bases[step]))
        now = start + self.smoothed[-1]
        if not now <= DIVERGED * (start + min(self.smoothed)):  # NaN is not
            self.control.should_training_stop = True


def range_test(options: LoopOptions, job: ftp.TrainingJob, low: float, high: float, steps: int) -> dict[str, Any]:
    """Train on the run's first batches while the rate rises from `low` to `high`; then restore the weights.

    Each step's loss is compared with that of the untrained model on the same rows: batches differ more from each other
    than a few steps change them.

    Returns:
        As documented at `ftp.Trainer.range_test`.
    """
    with torch.random.fork_rng(), ready_trainer(RangeTrainer, options, job) as trainer:
        _train_at_rising_rate(trainer, low, high, steps)
    start = sum(trainer.bases) / len(trainer.bases)
    smoothed = [start + value for value in trainer.smoothed]
    diverged = len(trainer.rates) < steps or not math.isfinite(trainer.losses[-1])
    suggestion, reason = suggest(trainer.rates, smoothed, start, diverged)
    return {
        "rates": trainer.rates,
        "losses": trainer.losses,
        "smoothed": smoothed,
        "start": start,
        "diverged": diverged,
        "suggestion": suggestion,
        "reason": reason,
    }


def _train_at_rising_rate(trainer: RangeTrainer, low: float, high: float, steps: int) -> None:
    model, args = trainer.parts.job.model.model, trainer.args
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    args.learning_rate, args.max_steps = low, steps
    args.eval_strategy = args.save_strategy = "no"
    trainer.factor = (high / low) ** (1 / (steps - 1))
    trainer.bases = _untouched(trainer, steps)
    try:
        trainer.train()
    finally:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in before:
                    weight.copy_(before[name])
        model.zero_grad()
        model.eval()


def running_mean(means: Sequence[float], value: float) -> float:
    """Return the next running mean, corrected for its initial bias to zero (as in Adam)."""
    n = len(means)
    weight = (1 - SMOOTHING) / (1 - SMOOTHING ** (n + 1))
    return (1 - weight) * means[-1] + weight * value if n else value


def _untouched(trainer: RangeTrainer, steps: int) -> list[float]:
    """Return the loss of the untrained model on the rows of each step, without dropout."""
    size = trainer.args.gradient_accumulation_steps
    batches = (batch for epoch in itertools.count() for batch in _steps_of(trainer.batches.of(epoch), size))
    return [_loss_of(trainer, rows) for rows in itertools.islice(batches, steps)]


def _steps_of(batches: list[list[int]], size: int) -> list[list[int]]:
    """Return the rows of each optimizer step of an epoch."""
    return [[row for batch in batches[i : i + size] for row in batch] for i in range(0, len(batches), size)]


def _loss_of(trainer: RangeTrainer, rows: Sequence[int]) -> float:
    """Return the trainer's own loss on the rows of a step, without dropout."""
    model, size, total = trainer.parts.job.model.model, trainer.batches.batch_size, 0.0
    batches = [trainer.data_collator([trainer.train_dataset[row] for row in rows[i : i + size]])
               for i in range(0, len(rows), size)]  # fmt: skip
    count = trainer.items_in(batches)
    model.eval()
    with torch.no_grad(), trainer.path.attention() if trainer.path else contextlib.nullcontext():
        for batch in batches:
            total += float(trainer.compute_loss(model, trainer._prepare_inputs(batch), num_items_in_batch=count))
    return total


def suggest(
    rates: Sequence[float], smoothed: Sequence[float], start: float, diverged: bool
) -> tuple[float | None, str]:
    """Return a learning rate and the reason, or None and the reason why there is none.

    The smaller of two of the rules of fastai's learning-rate finder (Howard & Gugger 2020, "fastai: A Layered API for
    Deep Learning"): a tenth of the rate where the loss is lowest (`minimum`), and the rate where it falls fastest over
    the logarithm of the rate (`steep`).
    """
    finite = [value if math.isfinite(value) else math.inf for value in smoothed]
    lowest = min(range(len(finite)), key=lambda at: finite[at])
    if not finite[lowest] < (1 - FELL) * start:
        return None, (
            f"the loss never fell below the untouched model's {start:.3f} by as much as {FELL:.0%}; lower --low, or "
            "take more --steps"
        )
    if lowest == len(rates) - 1 and not diverged:
        return None, f"the loss was still falling at the highest rate, {rate_shown(rates[-1])}; raise --high"
    falls = [(finite[at + 1] - finite[at]) / math.log(rates[at + 1] / rates[at]) if at else 0.0 for at in range(lowest)]
    steepest = min(range(len(falls)), key=lambda at: falls[at]) if falls else 0
    found = min(rates[lowest] / 10, rates[steepest])
    rule = "a tenth of the rate of the lowest loss" if found < rates[steepest] else "the rate of the fastest fall"
    return found, (
        f"{rule}: the smoothed loss is lowest, {finite[lowest]:.3f} against {start:.3f} before, at "
        f"{rate_shown(rates[lowest])}, and falls fastest at {rate_shown(rates[steepest])} (of fastai's two rules "
        "the one with the smaller rate)"
    )
