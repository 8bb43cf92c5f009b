"""Grades of answers on a rubric, and what is reported of many of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import ftp
from ftp_plugins.judging import gold_set, reliability


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """The scores of one answer, or why it has none."""

    scores: dict[str, float] | None
    reasons: dict[str, str]
    why: str = ""

    @property
    def overall(self) -> float:
        return math.fsum(self.scores.values()) / len(self.scores) if self.scores else math.nan

    def score(self, name: str) -> float:
        """Return the score for a criterion, or `overall`; NaN if there is none."""
        if self.scores is None:
            return math.nan
        return self.overall if name == "overall" else float(self.scores[name])

    def reason(self, name: str) -> str:
        """Return the reason for a score, or why there is none."""
        if self.scores is None:
            return f"unscored: {self.why}"
        if name == "overall":
            return ", ".join(f"{criterion} {value:g}" for criterion, value in self.scores.items())
        return self.reasons[name]


def all_alike(grades: Sequence[Grade], panel: dict[str, float | str]) -> list[str]:
    """Report that all answers got the same scores."""
    given = [tuple(sorted(grade.scores.items())) for grade in grades if grade.scores is not None]
    if len(given) < reliability.FEW or len(set(given)) > 1:
        return []
    panel["scores flag"] = "all alike"
    return ["all answers got the same scores: this judge can't tell answers apart, and its figures mean nothing"]


def cut_note(view: ftp.EvalView, limit: int) -> list[str]:
    """Report how many answers were cut for the judge."""
    cut = sum(len(answer.text) > limit for answers in (view.base_answers, view.tuned_answers) for answer in answers)
    return [f"{cut} answers were cut for the judge at {limit:,} characters"] if cut else []


def grade_metric(
    name: str, base: Sequence[Grade], tuned: Sequence[Grade], clusters: Sequence[str] | None, levels: float
) -> ftp.Metric:
    """Compute a metric over the examples with both answers scored; unscored ones are NaN."""
    return ftp.paired_metric(
        name,
        [grade.score(name) for grade in base],
        [grade.score(name) for grade in tuned],
        base_reasons=[grade.reason(name) for grade in base],
        tuned_reasons=[grade.reason(name) for grade in tuned],
        clusters=clusters,
        limits=(1.0, levels),
        family="rubric",
    )


def gold_agreement(golden: Sequence[gold_set.GoldScore], grades: Sequence[Grade], panel: dict[str, float | str]) -> str:
    """Report how well the judge agrees with people."""
    rows = [row for row, grade in enumerate(grades) if grade.scores is not None]
    both = [(golden[row].score, grades[row].overall) for row in rows]
    # Half way goes up: round() would go to the even neighbour.
    rounded = [math.floor(overall + 0.5) for _, overall in both]
    same, kappa = reliability.score_agreement(
        [score for score, _ in both], rounded, ftp.clusters_of([golden[row].example for row in rows])
    )
    panel |= reliability.panel({"gold agreement": same, "gold weighted kappa": kappa})
    panel["gold unscored"] = 1 - len(both) / len(golden)
    return (
        f"gold set: the judge's overall score, rounded, is that of people in {reliability.share(same)}; "
        f"quadratic weighted kappa {f'{kappa:.2f}' if kappa is not None else 'unknown'}; "
        f"{len(golden) - len(both)} of {len(golden)} unscored"
    )
