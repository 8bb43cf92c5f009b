"""Schedules of the learning rate, by the names of recipes and of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

Schedule = Literal["linear", "cosine", "constant", "cosine_with_restarts", "wsd"]
READ_BY: Mapping[str, tuple[Schedule, ...]] = {
    "min_lr_ratio": ("cosine", "wsd"),
    "cycles": ("cosine_with_restarts",),
    "decay": ("wsd",),
}
"""The schedules that read an option; the others are read by all."""


def _whole_from_one(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("must be a share below 1, or a whole number of steps")
    return value


ShareOrSteps = Annotated[float, Field(ge=0), AfterValidator(_whole_from_one)]
"""A share of the steps, below 1, or a number of steps."""


def in_steps(value: float, steps: int) -> int:
    """Return how many of these steps a `ShareOrSteps` means."""
    return round(value * steps) if value < 1 else min(steps, int(value))


def in_transformers(
    schedule: Schedule, steps: int, warmup: int, *, min_lr_ratio: float, cycles: int, decay: float
) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of a schedule in `transformers.get_scheduler`.

    Args:
        steps: of the whole training.
        warmup: steps of them.
    """
    if schedule == "constant":
        return "constant_with_warmup", {}
    if schedule == "cosine" and min_lr_ratio:
        return "cosine_with_min_lr", {"min_lr_rate": min_lr_ratio}
    if schedule == "cosine_with_restarts":
        return schedule, {"num_cycles": cycles}
    if schedule == "wsd":
        falling = min(in_steps(decay, steps), steps - warmup)
        return "warmup_stable_decay", {
            "num_decay_steps": falling,
            "min_lr_ratio": min_lr_ratio,
            "decay_type": "1-sqrt",
        }
    return schedule, {}
