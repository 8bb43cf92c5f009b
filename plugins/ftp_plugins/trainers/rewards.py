"""The rewards of answers: a weighted sum of evaluators' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ftp
from ftp.errors import ComponentError
from ftp.guard import call


@dataclass(frozen=True, slots=True)
class Rewarded:
    """What the rewards say of one answer."""

    total: float
    """The weighted sum; NaN where no reward has a score."""
    scores: Mapping[str, float]
    """The score of each reward, by name; NaN is a missing one, which doesn't count."""
    reasons: Mapping[str, str]
    """Why, where a reward gives a reason."""


def named(rewards: Sequence[ftp.Evaluator]) -> dict[str, ftp.Evaluator]:
    """Return the rewards by name; one whose name comes a second time gets a number."""
    found: dict[str, ftp.Evaluator] = {}
    for reward in rewards:
        number = sum(other.used_as == reward.used_as for other in found.values()) + 1
        found[reward.used_as if number == 1 else f"{reward.used_as}_{number}"] = reward
    return found


def weight_of(reward: ftp.Evaluator) -> float:
    """Return the weight of a reward, 1 unless the recipe gives another; negative where lower scores are better."""
    weight = 1.0 if reward.weight_given is None else reward.weight_given
    return weight if reward.higher_is_better else -weight


def rewarded(
    rewards: Sequence[ftp.Evaluator], examples: Sequence[ftp.Example], answers: Sequence[str]
) -> list[Rewarded]:
    """Score answers, each to the example in its place.

    Raises:
        ComponentError: a reward failed, or gave another number of scores.
    """
    by_name = named(rewards)
    columns = {name: call(Sequence, reward.scores, examples, answers) for name, reward in by_name.items()}
    for name, column in columns.items():
        if len(column) != len(answers):
            raise ComponentError(f"the reward '{name}' gave {len(column)} scores for {len(answers)} answers")
    found = []
    for place in range(len(answers)):
        scores = {name: float(column[place].value) for name, column in columns.items()}
        known = [weight_of(by_name[name]) * score for name, score in scores.items() if not math.isnan(score)]
        reasons = {name: column[place].reason for name, column in columns.items() if column[place].reason}
        found.append(Rewarded(math.fsum(known) if known else math.nan, scores, reasons))
    return found


def mean_reward(found: Sequence[Rewarded]) -> dict[str, float]:
    """Return the mean reward of answers, and that of each reward by itself."""
    by_name = {f"reward_{name}": mean([one.scores[name] for one in found]) for name in found[0].scores}
    return {"reward": mean([one.total for one in found]), **by_name}


def mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not missing; NaN where all are."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
