"""Over-optimisation of a preference: the margin grows because both answers become unlikely."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

import ftp


class OverOptimisation(ftp.Watcher):
    """Warns when preference training widens the margin while the chosen answers themselves become unlikely.

    The loss then still falls, but probability moves to answers that nobody has chosen: likelihood displacement (Razin
    et al. 2024, arXiv:2410.08847), the usual form of over-optimisation in DPO (Rafailov et al. 2024, arXiv:2406.02900).
    `sft_weight`, a higher `beta` or a lower learning rate help. It watches `margin` and `chosen_log_prob` of the
    validations, and does nothing where a trainer doesn't measure them.
    """

    by_default: ClassVar[bool] = True

    patience: int = Field(default=3, ge=2)
    """Validations in succession in which the margin has to grow and the chosen log-probability to fall."""
    min_fall: float = Field(default=0.05, gt=0)
    """Smallest fall of the chosen log-probability that counts, as a share of what it was before training."""
    action: Literal["report", "stop"] = "report"
    """Only report it, or end training."""

    _curve: list[tuple[int, float, float]] = PrivateAttr(default_factory=list)
    """Step, margin and chosen log-probability of each validation."""
    _reported: int | None = PrivateAttr(default=None)
    """The step at which it was reported."""

    def see(self, event: Mapping[str, Any]) -> ftp.Stop | ftp.Warn | None:
        if event["event"] in ("resume", "rollback"):
            self._curve = [point for point in self._curve if point[0] <= event["step"]]
            if self._reported is not None and self._reported > event["step"]:
                self._reported = None
        if event["event"] != "validation":
            return None
        margin, chosen = event.get("margin"), event.get("chosen_log_prob")
        if not all(isinstance(value, float) and math.isfinite(value) for value in (margin, chosen)):
            return None
        self._curve.append((event["step"], float(margin or 0), float(chosen or 0)))
        if self._reported is not None or not self._holds():
            return None
        self._reported = event["step"]
        first, last = self._curve[0], self._curve[-1]
        reason = (
            f"over-optimisation: the margin grows, {first[1]:.3f} to {last[1]:.3f}, while the chosen answers become "
            f"less likely, {first[2]:.1f} to {last[2]:.1f} nats each; raise train.sft_weight or train.beta, or lower "
            "train.learning_rate"
        )
        return ftp.Stop(reason) if self.action == "stop" else ftp.Warn(reason)

    def _holds(self) -> bool:
        recent = self._curve[-self.patience - 1 :]
        if len(recent) <= self.patience:
            return False
        grows = all(later[1] > earlier[1] for earlier, later in itertools.pairwise(recent))
        falls = all(later[2] < earlier[2] for earlier, later in itertools.pairwise(recent))
        first, last = self._curve[0][2], recent[-1][2]
        return grows and falls and first - last > self.min_fall * abs(first)
