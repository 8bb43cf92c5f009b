"""Overfitting: the validation loss has passed its minimum and is rising."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, PrivateAttr

import ftp
from ftp.errors import did_you_mean

if TYPE_CHECKING:
    from ftp.recipe import Recipe

LEVEL = 0.03
"""Probability that the slope tests of one curve mistake noise for a rise, shared among its validations."""
CLEAR = 2.0
"""Standard deviations of the noise by which a rise has to exceed what the luck of a lowest value explains."""
WANDER = 1.5
"""Standard deviations by which a rise has to exceed how far a random walk of the same steps gets."""


class Valley(NamedTuple):
    """A curve that fell and rises again."""

    floor: int
    """Where it was lowest, counted from 0."""
    rise: float
    """The median of the last values above the lowest one."""
    p: float
    """Probability of such a slope from noise alone."""


class ValValley(ftp.Watcher):
    """Ends training when the validation loss rises again; the trainer then restores the best checkpoint.

    It requires a trend, not a single bad value: several validations past the lowest one that rise by more than their
    noise. The loss of each source is watched too, and reported when it rises. If `best_by` names an evaluator's
    metric, that score decides, and a rising loss is only reported.
    """

    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    by_default: ClassVar[bool] = True

    patience: int = Field(default=3, ge=3)
    """Validations past the lowest loss before it may stop training; at least 3."""
    min_rise: float = Field(default=0.01, ge=0)
    """Smallest rise that counts, as a share of the lowest loss. The median of the last `patience` validations is
    compared."""
    signal: str = ""
    """A figure of the trainer's validations that decides in place of the loss, such as `accuracy` of the trainer `dpo`;
    higher is better. Empty: `best_by` of the trainer."""
    action: Literal["stop", "report"] = "stop"
    """End training, or only report it."""

    _curves: dict[str, dict[int, float]] = PrivateAttr(default_factory=dict)
    """Step and value of each curve; lower is better, so a score is negated."""
    _gaps: dict[int, float] = PrivateAttr(default_factory=dict)
    """Validation loss minus the mean training loss of the steps since the validation before."""
    _trained: dict[int, float] = PrivateAttr(default_factory=dict)
    """Training loss of the steps since the last validation."""
    _reported: dict[str, int] = PrivateAttr(default_factory=dict)
    """The step at which each curve was first reported."""

    def cross_problems(self, recipe: Recipe) -> list[str]:
        measures = recipe.train.measures
        if not self.signal or self.signal in measures:
            return []
        known = f"the trainer '{recipe.train.used_as}' measures {', '.join(measures)}"
        return [f"signal: {known}{did_you_mean(self.signal, measures)}"]

    def see(self, event: Mapping[str, Any]) -> ftp.Stop | ftp.Warn | None:
        if event["event"] == "metric" and math.isfinite(loss := float(event["loss"])):
            self._trained[event["step"]] = loss
        elif event["event"] in ("resume", "rollback"):
            self._forget_after(event["step"])
        elif event["event"] == "validation" and math.isfinite(float(event["loss"])):
            return self._judge(event["step"], self._note(event))
        return None

    def _note(self, event: Mapping[str, Any]) -> list[str]:
        """Record a validation; return the names of its curves, first the one that decides."""
        step, loss = event["step"], float(event["loss"])
        values = {"validation loss": loss}
        by_source = event.get("by_source") or {}
        if len(by_source) > 1:
            values |= {f"validation loss of {name}": float(value) for name, value in by_source.items()}
        if event.get("score") is not None and event.get("best_by", "loss") != "loss":
            values = {str(event["best_by"]): -float(event["score"]), **values}
        if isinstance(signal := event.get(self.signal), int | float) and self.signal != "loss":
            values = {self.signal: -float(signal), **values}
        for name, value in values.items():
            if math.isfinite(value):
                self._curves.setdefault(name, {})[step] = value
        if self._trained:
            self._gaps[step] = loss - statistics.fmean(self._trained.values())
        self._trained.clear()
        return list(values)

    def _forget_after(self, step: int) -> None:
        for by_step in (*self._curves.values(), self._gaps, self._trained):
            for later in [at for at in by_step if at > step]:
                del by_step[later]
        for name in [name for name, at in self._reported.items() if at > step]:
            del self._reported[name]

    def _judge(self, step: int, names: Sequence[str]) -> ftp.Stop | ftp.Warn | None:
        findings = {name: text for name in names if (text := self._finding(name))}
        new = [name for name in findings if name not in self._reported]
        self._reported.update(dict.fromkeys(new, step))
        if names[0] in findings and self.action == "stop":
            return ftp.Stop("; ".join(findings[name] for name in dict.fromkeys((names[0], *new))))
        return ftp.Warn("; ".join(findings[name] for name in new)) if new else None

    def _finding(self, name: str) -> str | None:
        curve = self._curves.get(name, {})
        steps, values = list(curve), list(curve.values())
        valley = find_valley(steps, values, self.patience, self.min_rise)
        if valley is None:
            return None
        floor, now = steps[valley.floor], steps[-1]
        sign, extreme, goes = (1, "lowest", "rises") if "validation loss" in name else (-1, "best", "falls")
        text = (
            f"{name} {goes}: {extreme} {sign * values[valley.floor]:.4f} at step {floor}, {sign * values[-1]:.4f} at "
            f"step {now}, {len(steps) - 1 - valley.floor} validations later (p = {valley.p:.1g})"
        )
        if name == "validation loss" and now in self._gaps:
            text += f"; it is {self._gaps[now]:.4f} above the training loss"
            text += f", {self._gaps[floor]:.4f} at the floor" if floor in self._gaps else ""
        return text


def find_valley(steps: Sequence[float], values: Sequence[float], patience: int, min_rise: float) -> Valley | None:
    """Detect a curve that rises again after its lowest value, as opposed to one that is flat, falling, or noisy.

    All of these have to hold: `patience` values or more follow the lowest one; their slope from there on is above 0 by
    a one-sided t-test (Draper & Smith 1998, Applied Regression Analysis, ch. 1) at `LEVEL` over the number of values
    so far (Bonferroni), as the test is made after each of them; and the median of the last `patience` values lies above
    the lowest one by `min_rise` of it and by √(2 ln n) + `CLEAR` standard deviations of the noise. √(2 ln n) is how far
    below its level the lowest of n noisy values lies (Cramér 1946, Mathematical Methods of Statistics, 28.6).

    Noise of which each value goes along with the one before makes slopes of its own. At its worst it is a random walk,
    which strays from its floor by its step times the root of the validations since then; the rise has to be `WANDER`
    times that. Simulated false stops of a flat curve are 1% with independent noise and 6% with an autocorrelation of
    0.5; with 0.9 they are still 37% in 30 validations, where the noise is as large as `min_rise`: so few values don't
    tell it from a rise. A larger `min_rise` does.

    The noise is the larger of two estimates: the residuals of that slope, and the median of the second differences of
    the whole curve (Gasser, Sroka & Jennen-Steinmetz 1986, Biometrika 73:625), which is robust where a curve bends.
    """
    n = len(values)
    floor = min(range(n), key=values.__getitem__, default=0)
    if n - 1 - floor < patience:
        return None
    rise = statistics.median(values[-patience:]) - values[floor]
    since, at = values[floor:], steps[floor:]
    slope, intercept = statistics.linear_regression(at, since)
    if rise <= 0 or rise < min_rise * abs(values[floor]) or slope <= 0:
        return None
    residuals = math.fsum((y - intercept - slope * x) ** 2 for x, y in zip(at, since, strict=True))
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    # The median absolute value of a normal variable is 0.6745 deviations; a second difference has 6 times the variance.
    noise = max(math.sqrt(residuals / (len(since) - 2)), statistics.median(bends) / 0.6745 / math.sqrt(6))
    # That of a random walk's has twice the variance of its steps.
    step = statistics.median(bends) / 0.6745 / math.sqrt(2)
    stray = WANDER * step * math.sqrt(n - 1 - floor)
    if rise < max(stray, (math.sqrt(2 * math.log(n)) + CLEAR) * noise):
        return None
    p = _one_sided_p(slope, noise, at)
    return Valley(floor, rise, p) if p <= LEVEL / n else None


def _one_sided_p(slope: float, noise: float, at: Sequence[float]) -> float:
    from scipy import stats

    if noise == 0:
        return 0.0
    middle = statistics.fmean(at)
    spread = math.sqrt(math.fsum((x - middle) ** 2 for x in at))
    return float(stats.t.sf(slope * spread / noise, len(at) - 2))
