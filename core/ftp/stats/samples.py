"""Several answers to one prompt."""

from __future__ import annotations

from ftp.stats.clusters import clusters_of
from ftp.stats.paired import paired_metric
from ftp.types import EvalView, Metric


def pass_at_k(metric: Metric, view: EvalView) -> list[Metric]:
    """Return pass@k: the share of prompts to which at least one of the `view.samples` answers is right.

    It is the unbiased estimate of Chen et al. 2021 (arXiv:2107.03374) where all samples count. Empty where a prompt has
    one answer, or where the scores of `metric` are not 0 and 1.
    """
    k = view.samples
    if k == 1 or not {*metric.base_scores, *metric.tuned_scores} <= {0.0, 1.0}:
        return []
    starts = range(0, len(view.examples), k)
    base, tuned = ([max(scores[at : at + k]) for at in starts] for scores in (metric.base_scores, metric.tuned_scores))
    clusters = clusters_of([view.examples[at] for at in starts])
    return [paired_metric(f"pass@{k}", base, tuned, higher_is_better=metric.higher_is_better, clusters=clusters)]
