"""Supervised fine-tuning on TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ftp
from ftp_plugins.trainers.sft_options import SFTOptions


class SFT(SFTOptions):
    """Supervised fine-tuning (TRL). Loss on answers only; rows are packed without padding and don't see each other."""

    def train(self, job: ftp.TrainingJob) -> ftp.TrainResult:
        from ftp_plugins.trainers.torch_sft import train_sft

        return train_sft(self, job)

    def plan(self, job: ftp.TrainingJob) -> Mapping[str, Any]:
        from ftp_plugins.trainers.torch_estimate import estimate

        return estimate(self, job)

    def range_test(self, job: ftp.TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any]:
        from ftp_plugins.trainers.torch_rate_range import range_test

        return range_test(self, job, low, high, steps)
