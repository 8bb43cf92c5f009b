"""The verdict on a metric: better, worse, or no evidence, and why there is none."""

from __future__ import annotations

import math

from ftp.stats.intervals import CONFIDENCE
from ftp.stats.small_samples import FEWEST_THAT_TELL
from ftp.types import Interval, Metric


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
