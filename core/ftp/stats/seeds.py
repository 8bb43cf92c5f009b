"""A metric over several runs of a recipe that differ only in their seed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ftp.stats.intervals import mean_estimate
from ftp.types import Interval


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
