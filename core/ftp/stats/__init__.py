"""Toolkit for statistics: the uncertainty of a figure, and of a difference between two models on the same examples.

- `clusters`: which examples are not independent of each other.
- `intervals`: intervals and tests for a mean of paired differences, also of clustered examples.
- `small_samples`: the same for few examples, or for differences that are all the same.
- `power`: the smallest difference that an evaluation can find.
- `differences`: the difference of paired scores, with its interval and effect size.
- `paired`: metrics of paired scores with every figure, on parts of an eval set, and corrected for being several.
- `samples`: several answers to one prompt: whether one of them is right.
- `verdicts`: what a difference says, and why it says nothing.
- `seeds`: a metric over several runs that differ only in their seed.
- `win_rates`: win rates of a judge, corrected for length, its consistency, and rank correlation.

The functions that are imported here are public. docs/toolkits.md has examples.
"""

from __future__ import annotations

from ftp.stats.clusters import clusters_of
from ftp.stats.differences import effect_size, paired_difference, paired_ratio_difference
from ftp.stats.intervals import CONFIDENCE, Estimate
from ftp.stats.paired import adjusted, holm, on_subsets, paired_metric
from ftp.stats.samples import pass_at_k
from ftp.stats.seeds import Spread, across_seeds
from ftp.stats.verdicts import verdict, verdict_in_words
from ftp.stats.win_rates import correlation, length_controlled_win_rate, order_consistency, win_rate
from ftp.types import Interval

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "Interval",
    "Spread",
    "across_seeds",
    "adjusted",
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
    "pass_at_k",
    "verdict",
    "verdict_in_words",
    "win_rate",
]
