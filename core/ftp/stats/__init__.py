"""Toolkit for statistics: the uncertainty of a figure, and of a difference between two models on the same examples.

- `intervals`: intervals and tests for a mean of paired differences, also of clustered examples.
- `paired`: differences between paired scores, with interval, p-value and verdict; corrections for several metrics.
- `win_rates`: win rates of a judge, corrected for length, its consistency, and rank correlation.

The functions that are imported here are public. docs/toolkits.md has examples.
"""

from __future__ import annotations

from ftp.stats.intervals import CONFIDENCE, Estimate
from ftp.stats.paired import (
    Spread,
    across_seeds,
    clusters_of,
    effect_size,
    holm,
    on_subsets,
    paired_difference,
    paired_metric,
    paired_ratio_difference,
    verdict,
    verdict_in_words,
)
from ftp.stats.win_rates import correlation, length_controlled_win_rate, order_consistency, win_rate
from ftp.types import Interval

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "Interval",
    "Spread",
    "across_seeds",
    "clusters_of",
    "correlation",
    "effect_size",
    "holm",
    "length_controlled_win_rate",
    "on_subsets",
    "order_consistency",
    "paired_difference",
    "paired_metric",
    "paired_ratio_difference",
    "verdict",
    "verdict_in_words",
    "win_rate",
]
