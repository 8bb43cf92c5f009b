"""The difference of two models on the same examples: estimate, interval and effect size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftp.stats.intervals import Estimate, group_sums, mean_estimate, proportion_estimate
from ftp.stats.small_samples import FEWEST_THAT_TELL, checked, with_spread
from ftp.types import Interval


def paired_difference(
    base: Sequence[float], tuned: Sequence[float], *, clusters: Sequence[str] | None = None
) -> Interval | None:
    """Return the mean of tuned minus base with a 95% interval, or None for fewer than two examples (or clusters).

    Args:
        base, tuned: scores of the same examples in the same order.
        clusters: the cluster of each example, such as its source document (`ftp.clusters_of`).

    Scores of 0 and 1 get the adjusted Wald interval (`ftp.stats.intervals.proportion_estimate`), also with ties at 1/2
    where every difference is 1, 0 or -1; others Student's t (`ftp.stats.intervals.mean_estimate`). With up to ten
    examples or clusters (five of 0 and 1) the interval holds 0 unless an exact test rules it out
    (`ftp.stats.small_samples`).
    """
    found = estimate_difference(base, tuned, clusters=clusters)
    return found.interval() if found else None


def paired_ratio_difference(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
) -> Interval | None:
    """Return the difference of two ratio means with one denominator, such as nats per token, with a 95% interval.

    Args:
        base, tuned: sums for each example, for example summed negative log-likelihood.
        weights: the denominator of each example, for example its tokens.
        clusters: as in `paired_difference`.

    The jackknife of the ratio estimator (Cochran 1977, Sampling Techniques, ch. 6) with Student's t.
    """
    differences = differences_of(base, tuned)
    per_unit = [s / w for scores in (base, tuned) for s, w in zip(scores, weights, strict=True) if w]
    found = _checked_mean(differences, weights, clusters, unit_of(per_unit))
    return found.interval() if found else None


def effect_size(
    base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, str] | None:
    """Return the effect size of a difference and its name, or None if it has none.

    Scores that are all 0 or 1: the odds ratio of the pairs that differ, half a count added to each kind; over 1 the
    tuned model is right where the base isn't more often than the reverse. Others: Cohen's d_z, the mean difference over
    its standard deviation, with Hedges' correction for small n (Hedges 1981, Journal of Educational Statistics 6:107).
    """
    differences = differences_of(base, tuned)
    if is_binary(base, tuned, weights) and not {*base, *tuned} <= {0.5}:
        return (sum(d > 0 for d in differences) + 0.5) / (sum(d < 0 for d in differences) + 0.5), "odds ratio"
    found, df = mean_estimate(weighted_by(differences, weights), weights), len(differences) - 1
    if found is None or df < 2 or not found.error > 0:
        return None
    correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * found.mean / (found.error * math.sqrt(found.n)), "Hedges' g of the differences"


def estimate_difference(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Estimate | None:
    """Return the estimate that the interval and the test of a difference come from; None for fewer than two examples.

    Args:
        weights, clusters: as in `paired_metric`.
    """
    differences = differences_of(base, tuned)
    if not is_binary(base, tuned, weights):
        return _checked_mean(weighted_by(differences, weights), weights, clusters, unit_of([*base, *tuned]))
    found = proportion_estimate(differences, clusters)
    if found is None:
        return None
    sums, _ = group_sums(differences, None, clusters)
    # McNemar's mid-p value holds from six examples; of clusters there is no such test.
    return checked(found, sums, FEWEST_THAT_TELL) if len(sums) == len(differences) else checked(found, sums)


def _checked_mean(
    sums: Sequence[float], weights: Sequence[float] | None, clusters: Sequence[str] | None, unit: float
) -> Estimate | None:
    """Return the estimate of the mean, fit for a verdict: never without a spread, and with the exact test if small."""
    found = mean_estimate(sums, weights, clusters, "paired t" if weights is None else "paired ratio, t")
    if found is None:
        return None
    return checked(with_spread(found, unit), group_sums(sums, weights, clusters)[0])


def unit_of(scores: Sequence[float]) -> float:
    """Return what one example's scores may differ by, as far as the scores tell: their range, or their size."""
    if not scores or not math.isfinite(math.fsum(map(abs, scores))):
        return 1.0
    return (max(scores) - min(scores)) or abs(scores[0]) or 1.0


def differences_of(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    """Return tuned minus base for each example."""
    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} scores against {len(tuned)}: the examples must be the same")
    return [after - before for before, after in zip(base, tuned, strict=True)]


def weighted_by(values: Sequence[float], weights: Sequence[float] | None) -> list[float]:
    """Return each value times its weight; without weights, the values."""
    return list(values) if weights is None else [v * w for v, w in zip(values, weights, strict=True)]


def is_binary(base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None) -> bool:
    """Whether the differences are those of wins and losses: scores of 0 and 1, or ties of 1/2 on both sides."""
    if weights is not None or not all(score in (0, 0.5, 1) for score in (*base, *tuned)):
        return False
    return all(after - before in (-1, 0, 1) for before, after in zip(base, tuned, strict=True))
