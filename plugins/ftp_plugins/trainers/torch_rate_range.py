"""The learning-rate range test: a short training in which the rate rises until the loss does.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

import ftp
from ftp.lm.torch_losses import token_losses
from ftp.recipe.checks import rate_shown
from ftp_plugins.trainers.torch_loop import loop_class

if TYPE_CHECKING:
    from ftp_plugins.trainers.sft import SFT

SMOOTHING = 0.9
"""What a step keeps of the running mean before it."""
DIVERGED = 1.5
"""The test ends where the smoothed loss is so many times its lowest. (fastai: 4, for losses that come near 0.)"""
FELL = 0.01
"""A fall of a smaller share of the loss tells nothing."""


def range_test(trainer: SFT, job: ftp.TrainingJob, low: float, high: float, steps: int) -> dict[str, Any]:
    """Train on the run's first batches while the rate rises from `low` to `high`; then put the weights back.

    Each step's loss is compared with that of the untouched model on the same rows: batches differ more from each other
    than a few steps change them.

    Returns:
        As `ftp.Trainer.range_test` says.
    """
    model = job.model.model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        loop = trainer.make_loop(job, _range_class(), stack)
        args = loop.args
        args.learning_rate, args.max_steps = low, steps
        args.eval_strategy = args.save_strategy = "no"
        loop.factor = (high / low) ** (1 / (steps - 1))
        loop.bases = _untouched(loop, steps)
        try:
            loop.train()
        finally:
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if name in before:
                        weight.copy_(before[name])
            model.zero_grad()
            model.eval()
    start = sum(loop.bases) / len(loop.bases)
    smoothed = [start + value for value in loop.smoothed]
    diverged = len(loop.rates) < steps or not math.isfinite(loop.losses[-1])
    suggestion, reason = suggest(loop.rates, smoothed, start, diverged)
    return {
        "rates": loop.rates,
        "losses": loop.losses,
        "smoothed": smoothed,
        "start": start,
        "diverged": diverged,
        "suggestion": suggestion,
        "reason": reason,
    }


@functools.cache
def _range_class() -> Any:
    class Range(loop_class()):  # type: ignore[misc]
        """A training with a rising rate that saves nothing and tells nobody."""

        factor: float
        bases: list[float]

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.rates: list[float] = []
            self.losses: list[float] = []
            self.smoothed: list[float] = []

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: self.factor**step)
            return self.lr_scheduler

        def rehearse(self) -> None:
            pass

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            pass

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" not in logs:
                return
            at, start = len(self.losses), sum(self.bases) / len(self.bases)
            self.rates.append(logs["learning_rate"])
            self.losses.append(logs["loss"])
            self.smoothed.append(_running(self.smoothed, logs["loss"] - self.bases[at]))
            now = start + self.smoothed[-1]
            if not now <= DIVERGED * (start + min(self.smoothed)):  # NaN is not
                self.control.should_training_stop = True

    return Range


def _running(means: Sequence[float], value: float) -> float:
    """The next running mean, without the pull to zero of its beginning (as in Adam)."""
    n = len(means)
    weight = (1 - SMOOTHING) / (1 - SMOOTHING ** (n + 1))
    return (1 - weight) * means[-1] + weight * value if n else value


def _untouched(loop: Any, steps: int) -> list[float]:
    """The loss that the untouched model has on the rows of each step, nats per trained token."""
    each, of = loop.args.gradient_accumulation_steps, list[list[int]]()
    for epoch in range(steps):
        batches = loop.batches.of(epoch)
        of += [[row for batch in batches[at : at + each] for row in batch] for at in range(0, len(batches), each)]
        if len(of) >= steps:
            break
    of = of[:steps]
    rows = sorted({row for step in of for row in step})
    found = token_losses(loop.job.model, loop.rows.take(rows), batch_tokens=loop.largest_batch())
    losses = dict(zip(rows, found, strict=True))
    return [math.fsum(losses[row].nll for row in step) / sum(losses[row].tokens for row in step) for step in of]


def suggest(
    rates: Sequence[float], smoothed: Sequence[float], start: float, diverged: bool
) -> tuple[float | None, str]:
    """A learning rate and why, or None and why not.

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
