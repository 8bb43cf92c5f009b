"""Base class of trainers that take gradient steps on a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ftp
from ftp_plugins.trainers.loop_options import LoopOptions


class LoopTraining(LoopOptions):
    """Trains in the loop that all losses share. A subclass defines `rows_of`, its rows, and `objective`, its loss."""

    def train(self, job: ftp.TrainingJob) -> ftp.TrainResult:
        from ftp_plugins.trainers.torch_loop import run_loop

        return run_loop(self, job)

    def plan(self, job: ftp.TrainingJob) -> Mapping[str, Any]:
        from ftp_plugins.trainers.torch_estimate import estimate

        return estimate(self, job)

    def range_test(self, job: ftp.TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any] | None:
        from ftp_plugins.trainers.torch_rate_range import range_test

        return range_test(self, job, low, high, steps)
