"""Paired statistics: what the difference between two models on the same examples can and can't show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftp.types import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    method: str


def paired_difference(base: Sequence[float], tuned: Sequence[float]) -> Interval | None:
    """Mean of tuned minus base with a 95% interval, or None for fewer than two examples.

    Scores that are all 0 or 1 get the adjusted Wald interval for paired proportions, half a count added to each cell
    of the 2x2 table (Agresti & Min 2005, Statistics in Medicine 24:729); it holds its coverage where few or no
    examples differ. Others get Student's t on the differences.
    """
    from scipy import stats

    n = len(base)
    if n != len(tuned):
        raise ValueError(f"{n} scores against {len(tuned)}: the examples must be the same")
    if n < 2:
        return None
    differences = [after - before for before, after in zip(base, tuned, strict=True)]
    mean = math.fsum(differences) / n
    if all(score in (0, 1) for score in (*base, *tuned)):
        gained = sum(d > 0 for d in differences) + 0.5
        lost = sum(d < 0 for d in differences) + 0.5
        total = n + 2
        centre = (gained - lost) / total
        half = (
            float(stats.norm.ppf((1 + CONFIDENCE) / 2))
            * math.sqrt(gained + lost - (gained - lost) ** 2 / total)
            / total
        )
        return Interval(mean, max(-1.0, centre - half), min(1.0, centre + half), n, "paired proportions, adjusted Wald")
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, "paired t")


def paired_ratio_difference(base: Sequence[float], tuned: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """Difference of two ratio means with one denominator, such as nats per token over examples of unequal length.

    Args:
        base, tuned: sums for each example, for example summed negative log-likelihood.
        weights: the denominator of each example, for example its tokens.

    The interval comes from the linearised ratio estimator (Cochran 1977, Sampling Techniques, ch. 6) with Student's t.
    """
    from scipy import stats

    n = len(weights)
    total = math.fsum(weights)
    if n < 2 or total <= 0:
        return None
    differences = [after - before for before, after in zip(base, tuned, strict=True)]
    mean = math.fsum(differences) / total
    residuals = [d - mean * w for d, w in zip(differences, weights, strict=True)]
    error = math.sqrt(math.fsum(r * r for r in residuals) / (n - 1) * n) / total
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(mean, mean - half, mean + half, n, "paired ratio, t")


def verdict(difference: Interval | None, higher_is_better: bool) -> str:
    """`better`, `worse`, or `no evidence` when the interval holds 0, is not finite, or there is none."""
    if difference is None or not math.isfinite(difference.low + difference.high):
        return "no evidence"
    if difference.low <= 0 <= difference.high:
        return "no evidence"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def paired_metric(
    name: str,
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    higher_is_better: bool = True,
    base_reasons: Sequence[str] = (),
    tuned_reasons: Sequence[str] = (),
) -> Metric:
    """The mean score of both models and their paired difference."""
    from ftp.types import Metric

    return Metric(
        name=name,
        base=math.fsum(base) / len(base) if base else math.nan,
        tuned=math.fsum(tuned) / len(tuned) if tuned else math.nan,
        difference=paired_difference(base, tuned),
        higher_is_better=higher_is_better,
        base_scores=tuple(base),
        tuned_scores=tuple(tuned),
        base_reasons=tuple(base_reasons),
        tuned_reasons=tuple(tuned_reasons),
    )
