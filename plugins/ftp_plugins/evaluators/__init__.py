"""Evaluators: they compare base and tuned on held-out rows."""

from __future__ import annotations

import ftp
from ftp_plugins.evaluators.code import Code
from ftp_plugins.evaluators.exact_match import ExactMatch
from ftp_plugins.evaluators.forgetting import Forgetting
from ftp_plugins.evaluators.function import Function
from ftp_plugins.evaluators.json_schema import JSONSchema
from ftp_plugins.evaluators.judge import Judge
from ftp_plugins.evaluators.length import Length
from ftp_plugins.evaluators.loss import Loss
from ftp_plugins.evaluators.math import Math
from ftp_plugins.evaluators.pairwise import Pairwise
from ftp_plugins.evaluators.preference import Preference
from ftp_plugins.evaluators.reward_model import RewardModel
from ftp_plugins.evaluators.rouge import Rouge


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {
        "loss": Loss,
        "exact_match": ExactMatch,
        "rouge": Rouge,
        "judge": Judge,
        "pairwise": Pairwise,
        "preference": Preference,
        "forgetting": Forgetting,
        "math": Math,
        "json_schema": JSONSchema,
        "code": Code,
        "length": Length,
        "function": Function,
        "reward_model": RewardModel,
    }
