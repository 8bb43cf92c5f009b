"""Group-relative policy optimisation: reinforcement learning from rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ftp
from ftp_plugins.trainers.grpo_options import GRPOOptions

if TYPE_CHECKING:
    from ftp_plugins.trainers.torch_objective import Objective


class GRPO(GRPOOptions):
    """Reinforcement learning (GRPO): the model answers each prompt several times and learns what is rewarded most.

    The prompts are those of conversations; the last answer of a row is the reference that rewards may compare with, and
    is not learned. The recipe's engine samples the answers. A reward is an evaluator that scores single answers.
    Shao et al. 2024 (arXiv:2402.03300), with RLOO, Dr. GRPO and DAPO as options.
    """

    def objective(self, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> Objective:
        from ftp_plugins.trainers.torch_grpo import PolicyObjective

        return PolicyObjective(self, job, tokenizer)

    def train(self, job: ftp.TrainingJob) -> ftp.TrainResult:
        from ftp_plugins.trainers.torch_grpo import train_grpo

        return train_grpo(self, job)

    def range_test(self, job: ftp.TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any] | None:
        return None  # the loss of a step says nothing about how good the model is
