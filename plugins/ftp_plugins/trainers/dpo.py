"""Preference optimisation on pairs of answers: DPO and its relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ftp
from ftp_plugins.trainers.dpo_options import DPOOptions

if TYPE_CHECKING:
    from ftp_plugins.trainers.torch_objective import Objective


class DPO(DPOOptions):
    """Trains on pairs of answers, of which people or a judge prefer one (DPO, Rafailov et al. 2023, arXiv:2305.18290).

    The model learns to give the chosen answer a higher probability than the rejected one, compared with the model
    before training, whose probabilities are computed once before the first step. Kinds of loss:

    - `sigmoid`: DPO, with `label_smoothing` conservative DPO (Mitchell 2023).
    - `ipo`: a squared loss, which doesn't overfit pairs that are always decided alike (Azar et al. 2024,
      arXiv:2310.12036), by token as its authors' corrected code has it.
    - `hinge`: SLiC's hinge on DPO's margin (Zhao et al. 2023, arXiv:2305.10425).
    - `robust`: unbiased for preferences of which a share, `label_smoothing`, is wrong (Chowdhury et al. 2024,
      arXiv:2403.00409).
    - `apo_zero`, `apo_down`: anchored; the chosen answer's probability rises, or both fall (D'Oosterlinck et al. 2024,
      arXiv:2408.06266).
    - `simpo`: without a reference, on the mean log-probability of a token (Meng et al. 2024, arXiv:2405.14734).
    - `orpo`: without a reference, the loss of the chosen answer plus `beta` times the odds ratio (Hong et al. 2024,
      arXiv:2403.07691).
    """

    def objective(self, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> Objective:
        from ftp_plugins.trainers.torch_pairs import PairObjective

        rows = self.rows_of(job.corpus.train, tokenizer, job.ledger)
        return PairObjective(job, rows, self.rows_of(job.corpus.validation, tokenizer, job.ledger), self)
