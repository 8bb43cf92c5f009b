"""Paired statistics: what the difference between two models on the same examples can and can't show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftp.stats.intervals import CONFIDENCE, Estimate, bootstrap, mcnemar, mean_estimate, proportion_estimate
from ftp.types import Interval

if TYPE_CHECKING:
    from ftp.types import Example, Metric

__all__ = [
    "Interval",
    "Spread",
    "across_seeds",
    "clusters_of",
    "effect_size",
    "holm",
    "on_subsets",
    "paired_difference",
    "paired_metric",
    "paired_ratio_difference",
    "verdict",
    "verdict_in_words",
]


def paired_difference(
    base: Sequence[float], tuned: Sequence[float], *, clusters: Sequence[str] | None = None
) -> Interval | None:
    """Return the mean of tuned minus base with a 95% interval, or None for fewer than two examples (or clusters).

    Args:
        base, tuned: scores of the same examples in the same order.
        clusters: the cluster of each example, such as its source document.

    Scores that are all 0 or 1 get the adjusted Wald interval (`ftp.stats.intervals.proportion_estimate`), others
    Student's t (`ftp.stats.intervals.mean_estimate`).
    """
    found = _estimate(base, tuned, clusters=clusters)
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
    found = mean_estimate(_differences(base, tuned), weights, clusters, "paired ratio, t")
    return found.interval() if found else None


def effect_size(
    base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, str] | None:
    """Return the effect size of a difference and its name, or None if it has none.

    Scores that are all 0 or 1: the odds ratio of the pairs that differ, half a count added to each kind; over 1 the
    tuned model is right where the base isn't more often than the reverse. Others: Cohen's d_z, the mean difference over
    its standard deviation, with Hedges' correction for small n (Hedges 1981, Journal of Educational Statistics 6:107).
    """
    differences = _differences(base, tuned)
    if _binary(base, tuned, weights):
        return (sum(d > 0 for d in differences) + 0.5) / (sum(d < 0 for d in differences) + 0.5), "odds ratio"
    found, df = mean_estimate(_weighted(differences, weights), weights), len(differences) - 1
    if found is None or df < 2 or not found.error > 0:
        return None
    correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * found.mean / (found.error * math.sqrt(found.n)), "Hedges' g of the differences"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for multiple comparisons, keeping their order (Holm 1979).

    Scandinavian Journal of Statistics 6:65. None and NaN aren't counted and are returned as None.
    """
    from statsmodels.stats.multitest import multipletests

    known = [i for i, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    adjusted: list[float | None] = [None] * len(p_values)
    if known:
        for i, p in zip(known, multipletests([p_values[i] for i in known], method="holm")[1], strict=True):
            adjusted[i] = float(p)
    return adjusted


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric over several runs of a recipe that differ only in their seed."""

    interval: Interval
    """Of the mean over all seeds; its `n` is the number of runs."""
    deviation: float
    """Between-run standard deviation."""
    runs: tuple[float, ...]
    """The value of every run."""


def across_seeds(values: Sequence[Sequence[float]]) -> Spread | None:
    """Return mean over seeds, between-run standard deviation and Student's t interval; None for fewer than two runs.

    Args:
        values: for each seed its scores (or paired differences), example by example; the same examples in each.

    The interval covers what training would give on average over seeds, on these very examples. It doesn't cover other
    examples: that is what the interval of a single run does, at one seed.
    """
    lengths = {len(scores) for scores in values}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"runs with {sorted(lengths)} scores: the examples must be the same, and at least one")
    means = [math.fsum(scores) / len(scores) for scores in values]
    found = mean_estimate(means, method="t over runs")
    if found is None:
        return None
    return Spread(found.interval(), found.error * math.sqrt(len(means)), tuple(means))


def verdict(difference: Interval | None, higher_is_better: bool) -> str:
    """Return `better`, `worse`, or `no evidence` when the interval includes 0, is not finite, or is missing."""
    if difference is None or not math.isfinite(difference.low + difference.high):
        return "no evidence"
    if difference.low <= 0 <= difference.high:
        return "no evidence"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def verdict_in_words(metric: Metric) -> str:
    """Explain the verdict, and why there is no evidence: n is too small, or there are too many metrics.

    The smallest visible difference is the one that 80 of 100 such evaluations would find.
    """
    found, difference = verdict(metric.difference, metric.higher_is_better), metric.difference
    if difference is None:
        return f"{found} (too little for an interval)"
    if not math.isfinite(difference.low + difference.high):
        return f"{found} (a score is not a finite number)"
    if found == "no evidence":
        few = f"n={difference.n} is too small to detect less than {metric.detectable:.2g}" if metric.detectable else ""
        return f"{found} ({few})" if few else found
    if metric.p_adjusted is not None and not metric.p_adjusted <= 1 - CONFIDENCE:
        return f"no evidence (it could be chance among several metrics: adjusted p={metric.p_adjusted:.2g})"
    return found


def paired_metric(
    name: str,
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    higher_is_better: bool = True,
    base_reasons: Sequence[str] = (),
    tuned_reasons: Sequence[str] = (),
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Metric:
    """Compute both models' mean scores and everything about their paired difference.

    That is its interval, bootstrap interval, test, effect size and smallest visible difference.

    Args:
        base, tuned: one score for each example, NaN if there is none. With weights, its mean per unit, such as nats
            per token.
        weights: how much each example counts, such as its number of tokens.
        clusters: as in `paired_difference`.

    An example without one of its two scores keeps its place in the scores and is left out of every figure.
    """
    from ftp.types import Metric

    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} scores against {len(tuned)}: the examples must be the same")
    rows = [i for i, pair in enumerate(zip(base, tuned, strict=True)) if not any(map(math.isnan, pair))]
    figures = _figures(
        [base[i] for i in rows],
        [tuned[i] for i in rows],
        [weights[i] for i in rows] if weights else None,
        [clusters[i] for i in rows] if clusters else None,
    )
    return Metric(
        name=name,
        higher_is_better=higher_is_better,
        base_scores=tuple(base),
        tuned_scores=tuple(tuned),
        base_reasons=tuple(base_reasons),
        tuned_reasons=tuple(tuned_reasons),
        weights=tuple(weights or ()),
        clusters=tuple(clusters or ()),
        **figures,
    )


def _figures(
    base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None, clusters: Sequence[str] | None
) -> dict[str, Any]:
    """Compute the fields of a `Metric` from scores of which none is missing."""
    found = _estimate(base, tuned, weights, clusters)
    binary, effect = _binary(base, tuned, weights), effect_size(base, tuned, weights)
    exact = binary and (not clusters or len(set(clusters)) == len(clusters))
    differences = _differences(base, tuned)
    return {
        "base": _mean(base, weights),
        "tuned": _mean(tuned, weights),
        "difference": found.interval() if found else None,
        # Of 0 and 1 the adjusted Wald interval knows more than resampling does.
        "bootstrap": None if binary else bootstrap(_weighted(differences, weights), weights, clusters),
        "p_value": (mcnemar(differences) if exact else found.p_value()) if found else None,
        "test": ("McNemar, mid-p" if exact else "t") if found else "",
        "effect": effect and effect[0],
        "effect_name": effect[1] if effect else "",
        "detectable": found.detectable() if found else None,
    }


def clusters_of(examples: Sequence[Example]) -> list[str] | None:
    """Return the clusters of examples, as `paired_difference` takes them; None when no example has a group.

    An example's cluster is its group, or its id if it has none.
    """
    if not any(example.group for example in examples):
        return None
    return [f"group {example.group}" if example.group else f"row {example.id}" for example in examples]


def on_subsets(metric: Metric, leaked: Sequence[bool]) -> dict[str, Metric]:
    """Return the same metric on `all`, `clean` and `leaked` rows; a part without rows is left out.

    Args:
        leaked: for each example whether it (or a near duplicate) is among the training rows.

    A metric without scores, such as a perplexity, can't be split: it is returned as `all` alone.
    """
    if not metric.base_scores:
        return {"all": metric}
    if len(leaked) != len(metric.base_scores):
        raise ValueError(f"{metric.name}: {len(metric.base_scores)} scores, but {len(leaked)} rows")
    parts = {"all": metric}
    for part, wanted in (("clean", False), ("leaked", True)):
        rows = [i for i, flag in enumerate(leaked) if flag == wanted]
        if rows:
            parts[part] = paired_metric(
                metric.name,
                [metric.base_scores[i] for i in rows],
                [metric.tuned_scores[i] for i in rows],
                higher_is_better=metric.higher_is_better,
                base_reasons=[metric.base_reasons[i] for i in rows if metric.base_reasons],
                tuned_reasons=[metric.tuned_reasons[i] for i in rows if metric.tuned_reasons],
                weights=[metric.weights[i] for i in rows] if metric.weights else None,
                clusters=[metric.clusters[i] for i in rows] if metric.clusters else None,
            )
    return parts


def _estimate(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Estimate | None:
    differences = _differences(base, tuned)
    if _binary(base, tuned, weights):
        return proportion_estimate(differences, clusters)
    method = "paired t" if weights is None else "paired ratio, t"
    return mean_estimate(_weighted(differences, weights), weights, clusters, method)


def _differences(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} scores against {len(tuned)}: the examples must be the same")
    return [after - before for before, after in zip(base, tuned, strict=True)]


def _weighted(values: Sequence[float], weights: Sequence[float] | None) -> list[float]:
    return list(values) if weights is None else [v * w for v, w in zip(values, weights, strict=True)]


def _binary(base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None) -> bool:
    return weights is None and all(score in (0, 1) for score in (*base, *tuned))


def _mean(scores: Sequence[float], weights: Sequence[float] | None) -> float:
    total = math.fsum(weights) if weights is not None else len(scores)
    return math.fsum(_weighted(scores, weights)) / total if total else math.nan
