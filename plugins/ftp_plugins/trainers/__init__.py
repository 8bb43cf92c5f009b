"""Trainers."""

from __future__ import annotations

import ftp
from ftp_plugins.trainers.dpo import DPO
from ftp_plugins.trainers.grpo import GRPO
from ftp_plugins.trainers.kto import KTO
from ftp_plugins.trainers.reward import Reward
from ftp_plugins.trainers.sft import SFT


@ftp.hookimpl
def ftp_trainers() -> dict[str, type[ftp.Trainer]]:
    return {"dpo": DPO, "grpo": GRPO, "kto": KTO, "reward": Reward, "sft": SFT}
