"""A limit on the cost of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, PrivateAttr

import ftp


class Budget(ftp.Watcher):
    """Ends training, with everything saved, when its time, tokens or money are spent, and reports what was left.

    It counts training alone, without the evaluation around it, over all parts of a resumed run. The step
    that reaches a limit is the last one.
    """

    max_hours: float | None = Field(default=None, gt=0)
    """Hours of training."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens that went through training; repeated rows count each time."""
    max_cost: float | None = Field(default=None, gt=0)
    """Cost of training, in the currency of `cost_per_hour`."""
    cost_per_hour: float | None = Field(default=None, gt=0)
    """What an hour of this machine costs; needed for `max_cost`."""

    def problems(self) -> list[str]:
        if not (self.max_hours or self.max_tokens or self.max_cost):
            return ["needs a limit: max_hours, max_tokens, or max_cost with cost_per_hour"]
        if (self.max_cost is None) != (self.cost_per_hour is None):
            return ["max_cost and cost_per_hour are read together; give both or neither"]
        return []

    _planned: int | None = PrivateAttr(default=None)
    """Steps of the whole training."""
    _warned: bool = PrivateAttr(default=False)
    """Whether the warning about a missing figure has been given."""

    def see(self, event: Mapping[str, Any]) -> ftp.Stop | ftp.Warn | None:
        if event["event"] == "plan":
            self._planned = event["steps"]
        if event["event"] != "metric":
            return None
        needed = ["seconds"] * bool(self.max_hours or self.max_cost) + ["tokens"] * bool(self.max_tokens)
        missing = [name for name in needed if event.get(name) is None]
        if missing and not self._warned:
            self._warned = True
            return ftp.Warn(f"the trainer doesn't report its {' and '.join(missing)}, so that limit can't be enforced")
        spent = self._spent(event)
        planned, step = self._planned, event["step"]
        if spent is None or step == planned:
            return None
        if planned is None:
            return ftp.Stop(f"stopped at {spent}: {step} steps done")
        left = "" if event.get("seconds") is None else f", about {_hours(event['seconds'] * (planned / step - 1))} left"
        return ftp.Stop(f"stopped at {spent}: {step} of {planned} steps done{left}")

    def _spent(self, event: Mapping[str, Any]) -> str | None:
        """Return the limit that is reached, in words."""
        hours, tokens = (event.get("seconds") or 0) / 3600, event.get("tokens") or 0
        if self.max_hours is not None and hours >= self.max_hours:
            return f"{_hours(hours * 3600)} of {_hours(self.max_hours * 3600)}"
        if self.max_tokens is not None and tokens >= self.max_tokens:
            return f"{tokens:,} of {self.max_tokens:,} tokens"
        if self.max_cost is not None and self.cost_per_hour is not None:
            cost = hours * self.cost_per_hour
            if cost >= self.max_cost:
                return f"a cost of {cost:,.2f} of {self.max_cost:,.2f}"
        return None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
