"""Training on answers with a verdict: KTO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ftp
from ftp_plugins.trainers.kto_options import KTOOptions

if TYPE_CHECKING:
    from ftp_plugins.trainers.torch_objective import Objective


class KTO(KTOOptions):
    """Trains on single answers, each with a thumb up or down (KTO, Ethayarajh et al. 2024, arXiv:2402.01306).

    Good answers become likelier and bad ones less likely, compared with the model before training and measured against
    the KL divergence from it. The divergence is estimated on mismatched rows, the prompt of each with the answer of
    another, as KTO's authors and TRL do; a row keeps its partner over all epochs.
    """

    def objective(self, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> Objective:
        from ftp_plugins.trainers.torch_feedback import FeedbackObjective

        rows = self.rows_of(job.corpus.train, tokenizer, job.ledger)
        return FeedbackObjective(job, rows, self.rows_of(job.corpus.validation, tokenizer, job.ledger), self)
