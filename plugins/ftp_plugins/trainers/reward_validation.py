"""The validation of a training with rewards: the mean reward of greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ftp
from ftp_plugins.trainers.grpo_options import GRPOOptions
from ftp_plugins.trainers.rewards import mean_reward, rewarded


class RewardValidation:
    """Mean reward of greedy answers."""

    def __init__(self, options: GRPOOptions, job: ftp.TrainingJob, examples: Sequence[ftp.Example]) -> None:
        self.options, self.job, self.examples = options, job, examples

    def __len__(self) -> int:
        return len(self.examples)

    def measure(self) -> dict[str, Any]:
        """Return `reward`, the figures of each reward, and as `loss` the negative reward."""
        assert self.job.engine is not None
        greedy = self.job.engine.options.model_copy(
            update={"max_new_tokens": self.options.max_new_tokens, "temperature": 0.0, "top_p": 1.0, "samples": 1}
        )
        answers = self.job.engine.answer(self.examples, greedy)
        found = rewarded(self.options.rewards, self.examples, [answer.text for answer in answers])
        figures = mean_reward(found)
        tokens = sum(answer.tokens for answer in answers) / len(answers)
        return {"loss": -figures["reward"], **figures, "answer_tokens": tokens}

    def rehearse(self) -> None:
        """Measure one row."""
        self.sample(1)[0].measure()

    def sample(self, rows: int) -> tuple[RewardValidation, float]:
        """Return a validation on so many rows, and how many times its work the whole one is."""
        chosen = self.examples[:rows]
        return RewardValidation(self.options, self.job, chosen), len(self) / len(chosen)
