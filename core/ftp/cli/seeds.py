"""Several runs of a recipe that differ only in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftp.stats.seeds import Spread, across_seeds
from ftp.types import FinishedRun, Metric


def over_seeds(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return every metric's mean over the runs and its between-run spread (`ftp.stats.across_seeds`), as plain values.

    Args:
        runs: at least two, of one recipe.

    Returns:
        `runs`: seed, id and directory of each; `metrics`: for each `evals`, `evaluator`, `metric`, `base` (mean over
        the runs), `tuned` and `difference` (tuned minus base) with mean, 95% interval, standard deviation and the
        value of every run.
    """
    figures: dict[tuple[str, str, str], list[Metric]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            for metric in evaluation.metrics:
                figures.setdefault((evaluation.evals, evaluation.evaluator, metric.name), []).append(metric)
    metrics = []
    for (evals, evaluator, name), found in figures.items():
        # The figure of a run and not its scores: a ratio such as nats per token is no mean of scores.
        tuned = across_seeds([[metric.tuned] for metric in found])
        difference = across_seeds([[metric.tuned - metric.base] for metric in found])
        metrics.append(
            {
                "evals": evals,
                "evaluator": evaluator,
                "metric": name,
                "base": sum(metric.base for metric in found) / len(found),
                "tuned": _plain(tuned),
                "difference": _plain(difference),
            }
        )
    seeds = [{"seed": run.recipe["seed"], "id": run.id, "directory": str(run.directory)} for run in runs]
    return {"runs": seeds, "metrics": metrics}


def in_words(metric: dict[str, Any]) -> str:
    """Format one of the metrics of `over_seeds` as a line."""
    tuned, difference = metric["tuned"], metric["difference"]
    return (
        f"{metric['evals']}, {metric['evaluator']} {metric['metric']}: base {metric['base']:.3f}, tuned "
        f"{tuned['mean']:.3f} ± {tuned['deviation']:.3f} between runs, difference {difference['mean']:+.3f} "
        f"[{difference['low']:+.3f}, {difference['high']:+.3f}] over {len(tuned['runs'])} seeds"
    )


def _plain(spread: Spread | None) -> dict[str, Any]:
    assert spread is not None, "one run has no spread"
    interval = spread.interval
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "deviation": spread.deviation,
        "runs": list(spread.runs),
    }
