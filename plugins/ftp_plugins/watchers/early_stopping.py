"""Early stopping by patience, as trainers of other tools know it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr

import ftp
from ftp.errors import did_you_mean

if TYPE_CHECKING:
    from ftp.recipe import Recipe


class EarlyStopping(ftp.Watcher):
    """Ends training after a number of validations without a better one; the trainer then restores the best checkpoint.

    It counts validations, whatever their noise: a small `patience` may stop a training that would still improve.
    `val_valley` requires a rise beyond the noise. What is compared is the validation loss, or what `best_by` of the
    trainer names (Prechelt 1998, "Early Stopping - But When?").
    """

    also_known_as: ClassVar[Mapping[str, str]] = {
        "early_stopping": "",
        "early_stopping_patience": "patience",
        **dict.fromkeys(("early_stopping_threshold", "early_stopping_min_delta", "threshold"), "min_delta"),
    }

    patience: int = Field(default=3, ge=1)
    """Validations in a row without an improvement."""
    min_delta: float = Field(default=0.0, ge=0)
    """A smaller improvement doesn't count."""
    signal: str = ""
    """A figure of the trainer's validations that decides, such as `accuracy` of the trainer `dpo`; higher is better,
    except for `loss`. Empty: `best_by` of the trainer."""

    _curve: dict[int, float] = PrivateAttr(default_factory=dict)
    """Value by step; lower is better."""

    def cross_problems(self, recipe: Recipe) -> list[str]:
        measures = recipe.train.measures
        if not self.signal or self.signal in measures:
            return []
        known = f"the trainer '{recipe.train.used_as}' measures {', '.join(measures)}"
        return [f"signal: {known}{did_you_mean(self.signal, measures)}"]

    def see(self, event: Mapping[str, Any]) -> ftp.Stop | None:
        if event["event"] in ("resume", "rollback"):
            self._curve = {step: value for step, value in self._curve.items() if step <= event["step"]}
        if event["event"] != "validation":
            return None
        name, value = self._deciding(event)
        if not math.isfinite(value):
            return None
        self._curve[event["step"]] = value if name == "loss" else -value
        best_step, since = self._best()
        if since < self.patience:
            return None
        best = self._curve[best_step] if name == "loss" else -self._curve[best_step]
        shown = "validation loss" if name == "loss" else name
        return ftp.Stop(
            f"no better {shown} in {since} validations: {best:.4f} at step {best_step}, {value:.4f} at step "
            f"{event['step']}"
        )

    def _deciding(self, event: Mapping[str, Any]) -> tuple[str, float]:
        """Return name and value of what decides; the loss where a validation has nothing else."""
        if self.signal and self.signal in event:
            return self.signal, float(event[self.signal])
        if event.get("score") is not None and event.get("best_by", "loss") != "loss":
            return str(event["best_by"]), float(event["score"])
        return "loss", float(event["loss"])

    def _best(self) -> tuple[int, int]:
        """Return the step of the last improvement, and the number of validations since."""
        steps = list(self._curve)
        best = 0
        for at, step in enumerate(steps):
            if self._curve[step] < self._curve[steps[best]] - self.min_delta:
                best = at
        return steps[best], len(steps) - 1 - best
