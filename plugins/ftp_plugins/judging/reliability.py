"""The reliability of a judge as an instrument: order, length, agreement with people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ftp.stats.win_rates import correlation, win_rate
from ftp.types import Interval

LONGER_WINS = 0.65
"""Share of decided pairs won by the longer answer from which a judge is flagged, if the interval is above 50%."""
LENGTH_CORRELATION = 0.5
"""Correlation of length and score from which a judge is flagged, if the interval is above 0."""

CONSISTENT = 0.5
"""Order consistency below which, with its whole interval, a judge is flagged."""
FEW = 8
"""Answers or pairs below which a judge is not flagged for giving all the same verdict."""


def decided(first: str, second: str) -> float:
    """Return the tuned model's score in a pair: 1, 0, or 1/2 if the orders disagree or one of them is a tie.

    Args:
        first, second: the winner in each order: `tuned`, `base` or `tie`.
    """
    return {"tuned": 1.0, "base": 0.0}.get(first, 0.5) if first == second else 0.5


def longer_wins(scores: Sequence[float], differences: Sequence[float]) -> Interval | None:
    """Return the share of decided pairs with answers of unequal length that the longer answer won.

    Args:
        scores: 1, 1/2 or 0 for the tuned model.
        differences: length of its answer minus that of the base model's.
    """
    both = zip(scores, differences, strict=True)
    return win_rate([float((score > 0.5) == (more > 0)) for score, more in both if score != 0.5 and more])


def pair_correlation(differences: Sequence[float], scores: Sequence[float]) -> float | None:
    """Return Spearman's correlation of length and win.

    Each pair is counted from both sides, since it is arbitrary which model is called tuned.
    """
    both = [*differences, *(-more for more in differences)]
    found = correlation(both, [*scores, *(1 - score for score in scores)])
    return found.mean if found else None


def agreement(labels: Sequence[str], verdicts: Sequence[Sequence[str]]) -> tuple[Interval | None, float | None]:
    """Return how often a judge of pairs agrees with people: the mean over both orders, the interval over pairs.

    Args:
        labels: the winner of each pair by people.
        verdicts: the winner of each pair by the judge, in the first and in the second order.

    Returns:
        The agreement, and Cohen's kappa (1960) of labels and single verdicts.
    """
    shares = [sum(v == label for v in found) / len(found) for label, found in zip(labels, verdicts, strict=True)]
    flat = [(label, v) for label, found in zip(labels, verdicts, strict=True) for v in found]
    return win_rate(shares), kappa([label for label, _ in flat], [v for _, v in flat])


def score_agreement(gold: Sequence[int], judged: Sequence[int]) -> tuple[Interval | None, float | None]:
    """Return how often a judge gives the score that people gave, and Cohen's kappa with quadratic weights.

    Cohen 1968.
    """
    same = win_rate([float(a == b) for a, b in zip(gold, judged, strict=True)])
    return same, kappa(gold, judged, weights="quadratic")


def kappa(first: Sequence[object], second: Sequence[object], weights: str | None = None) -> float | None:
    """Return Cohen's kappa; None if there are no verdicts or both sides always give the same one."""
    from sklearn.metrics import cohen_kappa_score

    if len({*first, *second}) < 2:
        return None
    return float(cohen_kappa_score(first, second, weights=weights))


def panel(values: Mapping[str, Interval | float | str | None]) -> dict[str, float | str]:
    """Return the values for a panel: a share with the ends of its interval beside it; missing ones are left out."""
    found: dict[str, float | str] = {}
    for name, value in values.items():
        if isinstance(value, Interval):
            found |= {name: value.mean, f"{name}, low": value.low, f"{name}, high": value.high}
        elif isinstance(value, str) or (value is not None and math.isfinite(value)):
            found[name] = value
    return found


def share(interval: Interval | None) -> str:
    """Format a share in words."""
    if interval is None:
        return "unknown (too few)"
    return f"{interval.mean:.1%} ({interval.low:.1%} to {interval.high:.1%}, n={interval.n})"
