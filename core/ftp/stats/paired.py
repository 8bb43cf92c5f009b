"""Paired statistics: what the difference between two models on the same examples can and can't show."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftp.stats.intervals import (
    CONFIDENCE,
    Estimate,
    bootstrap,
    group_sums,
    mcnemar,
    mean_estimate,
    proportion_estimate,
)
from ftp.stats.power import detectable
from ftp.stats.small_samples import FEWEST_THAT_TELL, checked, with_spread
from ftp.types import Interval

if TYPE_CHECKING:
    from ftp.types import Metric

__all__ = [
    "Interval",
    "Spread",
    "across_seeds",
    "adjusted",
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
        clusters: the cluster of each example, such as its source document (`ftp.clusters_of`).

    Scores of 0 and 1 get the adjusted Wald interval (`ftp.stats.intervals.proportion_estimate`), also with ties at 1/2
    where every difference is 1, 0 or -1; others Student's t (`ftp.stats.intervals.mean_estimate`). With up to ten
    examples or clusters (five of 0 and 1) the interval holds 0 unless an exact test rules it out
    (`ftp.stats.small_samples`).
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
    differences = _differences(base, tuned)
    per_unit = [s / w for scores in (base, tuned) for s, w in zip(scores, weights, strict=True) if w]
    found = _checked_mean(differences, weights, clusters, _unit(per_unit))
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
    if _binary(base, tuned, weights) and not {*base, *tuned} <= {0.5}:
        return (sum(d > 0 for d in differences) + 0.5) / (sum(d < 0 for d in differences) + 0.5), "odds ratio"
    found, df = mean_estimate(_weighted(differences, weights), weights), len(differences) - 1
    if found is None or df < 2 or not found.error > 0:
        return None
    correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * found.mean / (found.error * math.sqrt(found.n)), "Hedges' g of the differences"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted for being several (Holm 1979, Scandinavian Journal of Statistics 6:65), in order.

    Scandinavian Journal of Statistics 6:65. None and NaN aren't counted and are returned as None.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    # Not statsmodels' multipletests: it collects garbage in every call, a fifth of a second each.
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
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
    # Runs with the same figure may differ by less than their examples can show: it is rounded to that (Sheppard 1898).
    scores = sorted({score for run in values for score in run})
    step = min((b - a for a, b in itertools.pairwise(scores)), default=abs(scores[0]) or 1.0) / lengths.pop()
    rounded = dataclasses.replace(found, error=max(found.error, step / math.sqrt(12 * len(means))))
    return Spread(rounded.interval(), found.error * math.sqrt(len(means)), tuple(means))


def verdict(difference: Interval | None, higher_is_better: bool) -> str:
    """Return `better`, `worse`, or `no evidence` when the interval includes 0, is not finite, or is missing."""
    if difference is None or not math.isfinite(difference.low + difference.high):
        return "no evidence"
    if difference.low <= 0 <= difference.high:
        return "no evidence"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def verdict_in_words(metric: Metric) -> str:
    """Explain the verdict, and why there is no evidence.

    There are too few examples, too many metrics for one to stand out, or examples without a score that could have
    turned the verdict. The smallest visible difference is the one that 80 of 100 such evaluations would find.
    """
    found, difference = verdict(metric.difference, metric.higher_is_better), metric.difference
    if difference is None:
        return f"{found} (too little for an interval)"
    if not math.isfinite(difference.low + difference.high):
        return f"{found} (a score is not a finite number)"
    if found == "no evidence":
        return found + _too_few(metric, difference)
    if metric.p_adjusted is not None and not metric.p_adjusted <= 1 - CONFIDENCE:
        if metric.p_value is not None and not metric.p_value <= 1 - CONFIDENCE:
            return f"no evidence ({metric.test or 'the test'} gives p={metric.p_value:.2g})"
        return f"no evidence (it could be chance among several metrics: adjusted p={metric.p_adjusted:.2g})"
    if metric.worst is not None and verdict(metric.worst, metric.higher_is_better) != found:
        without = metric.worst.n - difference.n
        at_worst = f"at worst {metric.worst.mean:+.3f} [{metric.worst.low:+.3f}, {metric.worst.high:+.3f}]"
        return f"no evidence (it hangs on {without} of {metric.worst.n} examples without a score: {at_worst})"
    return found


def _too_few(metric: Metric, difference: Interval) -> str:
    scored = [not math.isnan(b + t) for b, t in zip(metric.base_scores, metric.tuned_scores, strict=True)]
    names = {name for name, there in zip(metric.clusters, scored, strict=False) if there}
    if 0 < len(names) < min(difference.n, FEWEST_THAT_TELL):
        return f" ({len(names)} clusters of examples can't tell)"
    if difference.n < FEWEST_THAT_TELL:
        return f" ({difference.n} examples can't tell)"
    return f" (n={difference.n} is too small to detect less than {metric.detectable:.2g})" if metric.detectable else ""


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
    limits: tuple[float, float] | None = None,
    family: str = "",
) -> Metric:
    """Return the mean score of both models and their paired difference: interval, bootstrap, test, effect, power.

    Args:
        base, tuned: one score for each example, NaN if there is none. With weights, its mean per unit, such as nats
            per token.
        weights: how much each example counts, such as its number of tokens.
        clusters: as in `paired_difference`.
        limits: the lowest and the highest score that there can be. With it, examples without a score are reckoned with
            at their worst (`Metric.worst`).
        family: what this metric measures along with others of the evaluation (`Metric.family`).

    An example without one of its two scores keeps its place in the scores and is left out of every other figure.
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
        limits=tuple(limits or ()),
        worst=_worst(base, tuned, weights, clusters, limits) if limits and len(rows) < len(base) else None,
        family=family,
        **figures,
    )


def _worst(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None,
    clusters: Sequence[str] | None,
    limits: tuple[float, float],
) -> Interval | None:
    """Return the difference if every missing score had spoken against what the others found (Manski 1990)."""
    gaps = [after - before for before, after in zip(base, tuned, strict=True) if not math.isnan(after - before)]
    low, high = limits if math.fsum(gaps) >= 0 else limits[::-1]
    filled = [high if math.isnan(score) else score for score in base]
    answered = [low if math.isnan(score) else score for score in tuned]
    found = _estimate(filled, answered, weights, clusters)
    return found.interval() if found else None


def adjusted(metrics: Sequence[Metric]) -> list[Metric]:
    """Return metrics that are looked at together, with Holm's p-values and what each can still detect among them.

    A difference has to be found at the level that Holm's procedure leaves to the metrics that it has not rejected.
    """
    p_values = holm([metric.p_value for metric in metrics])
    found = [dataclasses.replace(metric, p_adjusted=p) for metric, p in zip(metrics, p_values, strict=True)]
    left = sum(p is not None and not p <= 1 - CONFIDENCE for p in p_values)
    if left < 2:
        return found
    return [
        dataclasses.replace(metric, detectable=_detectable(metric, left))
        if metric.detectable is not None and not (metric.p_adjusted or 0) <= 1 - CONFIDENCE
        else metric
        for metric in found
    ]


def _detectable(metric: Metric, tests: int) -> float | None:
    """Return what `paired_metric` finds detectable, for one of several tests; a metric without scores keeps its own."""
    pairs = zip(metric.base_scores, metric.tuned_scores, strict=True)
    rows = [i for i, pair in enumerate(pairs) if not any(map(math.isnan, pair))]
    if not rows:
        return metric.detectable
    base, tuned = [metric.base_scores[i] for i in rows], [metric.tuned_scores[i] for i in rows]
    weights = [metric.weights[i] for i in rows] if metric.weights else None
    clusters = [metric.clusters[i] for i in rows] if metric.clusters else None
    found = _estimate(base, tuned, weights, clusters)
    return _smallest(found, base, tuned, weights, clusters, tests) if found else metric.detectable


def _figures(
    base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None, clusters: Sequence[str] | None
) -> dict[str, Any]:
    """Compute the fields of a `Metric` from scores of which none is missing."""
    found = _estimate(base, tuned, weights, clusters)
    binary, effect = _binary(base, tuned, weights), effect_size(base, tuned, weights)
    exact = binary and (not clusters or len(set(clusters)) == len(clusters))
    differences = _differences(base, tuned)
    small = found is not None and found.exact is not None
    return {
        "base": _mean(base, weights),
        "tuned": _mean(tuned, weights),
        "difference": found.interval() if found else None,
        # Of 0 and 1 the adjusted Wald interval knows more than resampling does.
        "bootstrap": None if binary else bootstrap(_weighted(differences, weights), weights, clusters),
        "p_value": (mcnemar(differences) if exact and not small else found.p_value()) if found else None,
        "test": ("exact sign flips" if small else "McNemar, mid-p" if exact else "t") if found else "",
        "effect": effect and effect[0],
        "effect_name": effect[1] if effect else "",
        "detectable": _smallest(found, base, tuned, weights, clusters) if found else None,
    }


def _smallest(
    found: Estimate,
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None,
    clusters: Sequence[str] | None,
    tests: int = 1,
) -> float | None:
    """Return the smallest difference that such an evaluation finds, see `ftp.stats.power`."""
    differences = _differences(base, tuned)
    _, totals = group_sums(differences, weights, clusters)
    groups = sum(total > 0 for total in totals)
    return detectable(found, differences, clusters, unit=_unit([*base, *tuned]), groups=groups, tests=tests)


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
                limits=(metric.limits[0], metric.limits[1]) if metric.limits else None,
                family=metric.family,
            )
    return parts


def _estimate(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Estimate | None:
    differences = _differences(base, tuned)
    if not _binary(base, tuned, weights):
        return _checked_mean(_weighted(differences, weights), weights, clusters, _unit([*base, *tuned]))
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


def _unit(scores: Sequence[float]) -> float:
    """Return what one example's scores may differ by, as far as the scores tell: their range, or their size."""
    if not scores or not math.isfinite(math.fsum(map(abs, scores))):
        return 1.0
    return (max(scores) - min(scores)) or abs(scores[0]) or 1.0


def _differences(base: Sequence[float], tuned: Sequence[float]) -> list[float]:
    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} scores against {len(tuned)}: the examples must be the same")
    return [after - before for before, after in zip(base, tuned, strict=True)]


def _weighted(values: Sequence[float], weights: Sequence[float] | None) -> list[float]:
    return list(values) if weights is None else [v * w for v, w in zip(values, weights, strict=True)]


def _binary(base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None) -> bool:
    """Whether the differences are those of wins and losses: scores of 0 and 1, or ties of 1/2 on both sides."""
    if weights is not None or not all(score in (0, 0.5, 1) for score in (*base, *tuned)):
        return False
    return all(after - before in (-1, 0, 1) for before, after in zip(base, tuned, strict=True))


def _mean(scores: Sequence[float], weights: Sequence[float] | None) -> float:
    total = math.fsum(weights) if weights is not None else len(scores)
    return math.fsum(_weighted(scores, weights)) / total if total else math.nan
