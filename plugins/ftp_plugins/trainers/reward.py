"""Training of a reward model on pairs of answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ftp
from ftp_plugins.trainers.reward_options import RewardOptions

if TYPE_CHECKING:
    from ftp_plugins.trainers.torch_objective import Objective


class Reward(RewardOptions):
    """Trains a model to give answers a number: the higher, the better people or a judge would find them.

    A head with one output reads the state behind the last token of prompt and answer, in place of the language model's
    head. It learns from pairs of answers, of which one is preferred (Bradley & Terry 1952; Ouyang et al. 2022,
    arXiv:2203.02155): the loss is -log sigmoid(chosen - rejected). The evaluator `reward_model` uses the result, also
    as a reward of the trainer `grpo`.
    """

    def objective(self, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> Objective:
        from ftp_plugins.trainers.torch_reward import RewardObjective

        rows = self.rows_of(job.corpus.train, tokenizer, job.ledger)
        return RewardObjective(job, rows, self.rows_of(job.corpus.validation, tokenizer, job.ledger), self)

    def save(self, model: ftp.LoadedModel, directory: Path) -> None:
        from ftp_plugins.trainers.torch_reward_head import save_reward_model

        save_reward_model(model, directory)
