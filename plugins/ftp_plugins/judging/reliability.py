"""The reliability of a judge as an instrument: order, length, agreement with people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ftp.stats.intervals import mcnemar
from ftp.stats.verdicts import verdict
from ftp.stats.win_rates import correlation, win_rate
from ftp.types import Interval, Metric

LONGER_WINS = 0.65
"""Share of decided pairs won by the longer (or by the shorter) answer from which a judge is flagged, if the interval
lies on one side of 50%."""
LENGTH_CORRELATION = 0.5
"""Correlation of length and score, up or down, from which a judge is flagged, if the interval lies on one side of 0."""

FEW = 8
"""Answers or pairs below which a judge is not flagged for giving all the same verdict, or for its orders."""
TIES = 0.9
"""Share of pairs that are ties in both orders from which a judge is flagged."""
POSITION = 0.1
"""Share of pairs that one position gains, less what the other gains, from which a judge is flagged."""
SURE = 0.01
"""p-value up to which a judge's preference is taken for more than chance."""


def decided(first: str, second: str) -> float:
    """Return the tuned model's score in a pair: 1, 0, or 1/2 if the orders disagree or one of them is a tie.

    Args:
        first, second: the winner in each order: `tuned`, `base` or `tie`.
    """
    return {"tuned": 1.0, "base": 0.0}.get(first, 0.5) if first == second else 0.5


def position_pull(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Return for each pair 1 if the answer shown first gained from its place, -1 if the second did, 0 if neither.

    Args:
        pairs: who won, `base`, `tuned` or `tie`, with the base's answer first, and with the tuned model's first.
    """
    calls = ({"base": 1, "tuned": -1}.get(one, 0) + {"tuned": 1, "base": -1}.get(other, 0) for one, other in pairs)
    return [(pull > 0) - (pull < 0) for pull in calls]


def order_flags(pairs: Sequence[tuple[str, str]], clusters: Sequence[str] | None = None) -> dict[str, str]:
    """Return what the two orders of the pairs say against a judge, by the name of the flag.

    Args:
        pairs: as in `position_pull`, without those nobody was asked about.
        clusters: the cluster of each pair.

    A judge that goes by position in some of the calls is found by the test of McNemar on which position gained; one
    that throws coins by naming the same winner in both orders no more often than two coins do.
    """
    flags: dict[str, str] = {}
    if len(pairs) < FEW:
        return flags
    ties = sum(pair == ("tie", "tie") for pair in pairs)
    if ties >= TIES * len(pairs):
        flags["ties flag"] = f"calls {ties} of {len(pairs)} pairs a tie: it tells few answers apart"
    pull = position_pull(pairs)
    if abs(sum(pull)) >= POSITION * len(pairs) and mcnemar(pull) <= SURE:
        gained, place = (pull.count(1), "first") if sum(pull) > 0 else (pull.count(-1), "second")
        moved = len(pull) - pull.count(0)
        flags["order flag"] = f"prefers the answer shown {place}: it gained in {gained} of {moved} pairs that changed"
        return flags
    named = [i for i, pair in enumerate(pairs) if "tie" not in pair]
    same = win_rate([float(pairs[i][0] == pairs[i][1]) for i in named], clusters and [clusters[i] for i in named])
    if len(named) >= FEW and (same is None or same.low <= 0.5):
        agree = sum(pairs[i][0] == pairs[i][1] for i in named)
        flags["coin flag"] = (
            f"names one winner in both orders for {agree} of {len(named)} pairs: two coins may do so, too"
        )
    return flags


def one_sided(base: Sequence[bool], tuned: Sequence[bool]) -> str:
    """Return whose answers a judge leaves unscored more often than the other model's, or nothing.

    Args:
        base, tuned: for each example whether the answer is without a score.
    """
    more = [int(t) - int(b) for b, t in zip(base, tuned, strict=True)]
    if mcnemar(more) > SURE:
        return ""
    who, other = ("tuned", "base") if sum(more) > 0 else ("base", "tuned")
    counts = {"base": sum(base), "tuned": sum(tuned)}
    return f"leaves more of the {who} model's answers unscored, {counts[who]} against {counts[other]} of the {other}'s"


def unscored_notes(metric: Metric, panel: dict[str, float | str]) -> list[str]:
    """Return how far the figure could lie from what it would be with every example scored (Manski 1990, AER 80:319).

    A judge may refuse just those examples that one of the models loses; nothing in what it did score tells.
    """
    if metric.worst is None:
        return []
    low, high = bounds(metric)
    panel |= {"tuned model at the least": low, "tuned model at the most": high}
    note = f"{metric.name} of the tuned model, had all been scored: {low:.3f} at the least, {high:.3f} at the most"
    found = verdict(metric.difference, metric.higher_is_better)
    if found != "no evidence" and verdict(metric.worst, metric.higher_is_better) != found:
        panel["unscored flag"] = "the verdict hangs on what was not scored"
        note += f"; “{found}” hangs on what was not scored"
    return [note]


def bounds(metric: Metric) -> tuple[float, float]:
    """Return the mean score of the tuned model if its missing scores were the lowest, and the highest, there can be."""
    return tuple(  # type: ignore[return-value]
        math.fsum(limit if math.isnan(score) else score for score in metric.tuned_scores) / len(metric.tuned_scores)
        for limit in metric.limits
    )


def longer_wins(
    scores: Sequence[float], differences: Sequence[float], clusters: Sequence[str] | None = None
) -> Interval | None:
    """Return the share of the decided pairs with answers of unequal length that the longer answer won.

    Args:
        scores: 1, 1/2 or 0 for the tuned model.
        differences: length of its answer minus that of the base model's.
        clusters: the cluster of each pair.
    """
    rows = [i for i, (score, more) in enumerate(zip(scores, differences, strict=True)) if score != 0.5 and more]
    won = [float((scores[i] > 0.5) == (differences[i] > 0)) for i in rows]
    return win_rate(won, clusters and [clusters[i] for i in rows])


def length_flag(found: Interval | None, even: float, from_even: float) -> str:
    """Return which answers a judge prefers by their length, or nothing.

    Args:
        even: the figure of a judge without a preference.
        from_even: how far off it has to be, on either side.
    """
    if found is not None and found.mean >= even + from_even and found.low > even:
        return "may prefer longer answers"
    if found is not None and found.mean <= even - from_even and found.high < even:
        return "may prefer shorter answers"
    return ""


def pair_correlation(differences: Sequence[float], scores: Sequence[float]) -> float | None:
    """Return Spearman's correlation of length and win.

    Each pair is counted from both sides, since it is arbitrary which model is called tuned.
    """
    both = [*differences, *(-more for more in differences)]
    found = correlation(both, [*scores, *(1 - score for score in scores)])
    return found.mean if found else None


def agreement(
    labels: Sequence[str], verdicts: Sequence[Sequence[str]], clusters: Sequence[str] | None = None
) -> tuple[Interval | None, float | None]:
    """How often a judge of pairs agrees with people: the mean over both orders, the interval over pairs.

    Args:
        labels: the winner of each pair by people.
        verdicts: the winner of each pair by the judge, in the one order and in the other.
        clusters: the cluster of each pair.

    Returns:
        The agreement, and Cohen's kappa (1960) of labels and single verdicts.
    """
    shares = [sum(v == label for v in found) / len(found) for label, found in zip(labels, verdicts, strict=True)]
    flat = [(label, v) for label, found in zip(labels, verdicts, strict=True) for v in found]
    return win_rate(shares, clusters), kappa([label for label, _ in flat], [v for _, v in flat])


def score_agreement(
    gold: Sequence[int], judged: Sequence[int], clusters: Sequence[str] | None = None
) -> tuple[Interval | None, float | None]:
    """How often a judge gives the score that people gave, and Cohen's kappa with quadratic weights (Cohen 1968)."""
    same = win_rate([float(a == b) for a, b in zip(gold, judged, strict=True)], clusters)
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
