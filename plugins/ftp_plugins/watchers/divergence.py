"""Divergence of training: loss or gradients that are not finite, or that jump and stay high."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

import ftp

RECENT = 5
"""Latest steps that are judged together."""
FEWEST = 20
"""Minimum number of earlier steps for a baseline."""
SMALL = 0.1
"""Added to a loss before its logarithm: below a tenth of a nat, doubling means nothing."""


class Divergence(ftp.Watcher):
    """Rolls back to the last good checkpoint at half the rate when training diverges, and stops it the second time.

    Training diverges when the loss or the gradient norm is not finite; when the median loss of five
    steps jumps above that of the steps before or of the first steps; when a single loss is far above all usual ones; or
    when the gradient norm jumps for five consecutive steps. Jumps are measured against the step-to-step noise, so
    that small batches and warm-up raise no alarm.
    """

    by_default: ClassVar[bool] = True

    window: int = Field(default=50, ge=FEWEST)
    """Number of steps whose median is the baseline."""
    spike: float = Field(default=4.0, gt=0)
    """Standard deviations of the step-to-step noise that make a jump; three times as many for a single loss."""
    min_factor: float = Field(default=1.5, gt=1)
    """Minimum factor over the usual loss that counts. A single loss has to be ten times, a gradient norm five times the
    usual at least, regardless of this option."""

    _losses: list[tuple[int, float]] = PrivateAttr(default_factory=list)
    """Step and ln(loss + SMALL), of the whole run: its beginning is compared too."""
    _norms: list[tuple[int, float]] = PrivateAttr(default_factory=list)
    """Step and ln(gradient norm)."""
    _rollbacks: list[int] = PrivateAttr(default_factory=list)
    """Steps at which a roll-back was asked for or done."""

    def see(self, event: Mapping[str, Any]) -> ftp.Stop | ftp.RollBack | None:
        if event["event"] in ("resume", "rollback"):
            for curve in (self._losses, self._norms):
                curve[:] = [(step, value) for step, value in curve if step <= event["step"]]
            if event["event"] == "rollback":
                self._rollbacks.append(event["step"])
        if event["event"] not in ("metric", "validation"):
            return None
        finding = self._finding(event)
        if finding is None:
            return None
        if self._rollbacks:
            return ftp.Stop(f"{finding}, and training was rolled back before")
        self._rollbacks.append(event["step"])
        return ftp.RollBack(finding, factor=0.5)

    def _finding(self, event: Mapping[str, Any]) -> str | None:
        step, loss = event["step"], float(event["loss"])
        if event["event"] == "validation":
            return None if math.isfinite(loss) else f"the validation loss is {loss} at step {step}"
        if not math.isfinite(loss):
            return f"the training loss is {loss} at step {step}"
        norm = event.get("grad_norm")
        if norm is not None and not math.isfinite(norm := float(norm)):
            return f"the gradient norm is {norm} at step {step}"
        if "reward" not in event:  # the loss of a policy is about 0 at every step, whatever the model does
            self._losses.append((step, math.log(max(loss, 0.0) + SMALL)))
        if norm:
            self._norms.append((step, math.log(norm)))
        return self._loss_jumps() or (self._norm_jumps() if norm else None)

    def _loss_jumps(self) -> str | None:
        if len(self._losses) < FEWEST + RECENT:
            return None
        last = [value for _, value in self._losses[-RECENT - self.window :]]
        before, recent = last[:-RECENT], last[-RECENT:]
        noise, usual = step_noise(before), statistics.median(before)
        first = statistics.median(value for _, value in self._losses[:RECENT])
        step, now = self._losses[-1][0], statistics.median(recent)
        jump = max(self.spike * noise, math.log(self.min_factor))
        for level, of in ((usual, f"the {len(before)} steps before"), (first, f"the first {RECENT} steps")):
            if now - level > jump:
                return f"the training loss is {_loss(now)} over {RECENT} steps at step {step}, {_loss(level)} over {of}"
        if recent[-1] - usual > max(3 * self.spike * noise, math.log(10)):
            return f"the training loss is {_loss(recent[-1])} at step {step}, {_loss(usual)} over the steps before"
        return None

    def _norm_jumps(self) -> str | None:
        if len(self._norms) < FEWEST + RECENT:
            return None
        last = [value for _, value in self._norms[-RECENT - self.window :]]
        before, recent = last[:-RECENT], last[-RECENT:]
        usual, step = statistics.median(before), self._norms[-1][0]
        if min(recent) - usual > max(self.spike * step_noise(before), math.log(5)):
            return (
                f"the gradient norm is {math.exp(min(recent)):.3g} or more for {RECENT} steps at step {step}, "
                f"{math.exp(usual):.3g} over the {len(before)} steps before"
            )
        return None


def step_noise(values: Sequence[float]) -> float:
    """Return the standard deviation of the step-to-step noise: the median of the differences of neighbours.

    It is robust against slopes and a few outliers (a median absolute deviation, of the first differences:
    von Neumann et al. 1941, Annals of Mathematical Statistics 12:153).
    """
    differences = [abs(b - a) for a, b in itertools.pairwise(values)]
    return statistics.median(differences) / 0.6745 / math.sqrt(2)


def _loss(logged: float) -> str:
    return f"{math.exp(logged) - SMALL:.3f}"
