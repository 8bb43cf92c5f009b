"""Toolkit for statistics: paired differences, intervals and win rates."""

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
