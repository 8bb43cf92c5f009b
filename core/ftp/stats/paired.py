"""A metric of two models on the same examples: all its figures, its parts, and its place among several metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ftp.stats.differences import (
    differences_of,
    effect_size,
    estimate_difference,
    is_binary,
    unit_of,
    weighted_by,
)
from ftp.stats.intervals import CONFIDENCE, Estimate, bootstrap, group_sums, mcnemar
from ftp.stats.power import detectable
from ftp.types import Interval, Metric


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
    found = estimate_difference(filled, answered, weights, clusters)
    return found.interval() if found else None


def _figures(
    base: Sequence[float], tuned: Sequence[float], weights: Sequence[float] | None, clusters: Sequence[str] | None
) -> dict[str, Any]:
    """Compute the fields of a `Metric` from scores of which none is missing."""
    found = estimate_difference(base, tuned, weights, clusters)
    binary, effect = is_binary(base, tuned, weights), effect_size(base, tuned, weights)
    exact = binary and (not clusters or len(set(clusters)) == len(clusters))
    differences = differences_of(base, tuned)
    small = found is not None and found.exact is not None
    return {
        "base": _mean(base, weights),
        "tuned": _mean(tuned, weights),
        "difference": found.interval() if found else None,
        # Of 0 and 1 the adjusted Wald interval knows more than resampling does.
        "bootstrap": None if binary else bootstrap(weighted_by(differences, weights), weights, clusters),
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
    differences = differences_of(base, tuned)
    _, totals = group_sums(differences, weights, clusters)
    groups = sum(total > 0 for total in totals)
    return detectable(found, differences, clusters, unit=unit_of([*base, *tuned]), groups=groups, tests=tests)


def _mean(scores: Sequence[float], weights: Sequence[float] | None) -> float:
    total = math.fsum(weights) if weights is not None else len(scores)
    return math.fsum(weighted_by(scores, weights)) / total if total else math.nan


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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted for being several (Holm 1979, Scandinavian Journal of Statistics 6:65), in order.

    None and NaN aren't counted and are returned as None.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    # Not statsmodels' multipletests: it collects garbage in every call, a fifth of a second each.
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


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
    found = estimate_difference(base, tuned, weights, clusters)
    return _smallest(found, base, tuned, weights, clusters, tests) if found else metric.detectable
