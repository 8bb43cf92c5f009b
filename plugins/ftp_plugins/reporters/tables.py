"""The tables of a report and their headline: the result of each metric, and of all of them together."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ftp
from ftp.stats.verdicts import verdict_in_words

VERDICTS = ("better", "worse", "no evidence")


def figure(value: float) -> str:
    """Format a figure with three decimals, fewer for large figures."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def signed(value: float) -> str:
    """Format a difference, always with its sign."""
    return f"{value:+.3f}" if abs(value) < 1000 else f"{value:+,.0f}"


def score(value: float) -> str:
    """Format one example's score as briefly as possible."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if math.isfinite(value) else "unscored"


def is_general(run: ftp.FinishedRun, evaluation: ftp.Evaluation) -> bool:
    """Return whether an evaluation is about general abilities rather than about the specialist's task.

    That is the case if it is on data that the evaluator brought or measured, not on an eval set of the recipe.
    """
    return evaluation.evals not in run.recipe["data"].get("evals", {})


def row(evaluation: ftp.Evaluation, metric: ftp.Metric) -> dict[str, Any]:
    """Return a line of the table of figures.

    `words` is the whole verdict and `verdict` its first word or two, one of VERDICTS; both are empty if the metric
    has no interval, such as a perplexity.
    """
    words = verdict_in_words(metric) if metric.difference else ""
    return {
        "evals": evaluation.evals,
        "evaluator": evaluation.evaluator,
        "name": f"{evaluation.evaluator} {metric.name}",
        "n": metric.difference.n if metric.difference else evaluation.n,
        "examples": evaluation.n,
        "base": metric.base,
        "tuned": metric.tuned,
        "difference": metric.difference,
        "better": "higher" if metric.higher_is_better else "lower",
        "verdict": words.partition(" (")[0],
        "words": words,
        "metric": metric,
    }


def rows_of(evaluations: Sequence[ftp.Evaluation]) -> list[dict[str, Any]]:
    """Return a line for every metric of every evaluation."""
    return [row(evaluation, metric) for evaluation in evaluations for metric in evaluation.metrics]


def one_of_each_family(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows to count: of metrics that measure one thing, such as ROUGE-1 and ROUGE-L, a single one.

    It is the first that is conclusive. Where some of a family are better and some worse, all of them stay.
    """
    families: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for place, line in enumerate(rows):
        family = line["metric"].family
        key = (line["evals"], line["evaluator"], family) if family else (str(place),)
        families.setdefault(key, []).append(line)
    counted: list[Mapping[str, Any]] = []
    for lines in families.values():
        conclusive = [line for line in lines if line["verdict"] != "no evidence"]
        agree = len({line["verdict"] for line in conclusive}) < 2
        counted += (conclusive or lines)[:1] if agree else lines
    return counted


def headline(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Summarise all metrics: a word (better, worse, mixed, no evidence, not measured) and one sentence."""
    judged = one_of_each_family([r for r in rows if r["verdict"]])
    if not judged:
        return (
            "not measured",
            "No metric of this run compares base and tuned: so there is no evidence that the tuned one is better.",
        )
    count = Counter(r["verdict"] for r in judged)
    better, worse = count["better"], count["worse"]
    if len(judged) == 1:
        return judged[0]["verdict"], f"{_sentence(judged[0])}."
    word = "mixed" if better and worse else "better" if better else "worse" if worse else "no evidence"
    sizes = {r["n"] for r in judged}
    over = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
    parts = [
        f"better than the base on {better} of {len(judged)} metrics" if better else "",
        f"worse on {worse if better else f'{worse} of {len(judged)} metrics'}" if worse else "",
    ]
    found = " and ".join(part for part in parts if part)
    text = f"The tuned model is {found}, over {over} held-out examples" if found else ""
    if not found:
        text = "No evidence that the tuned model differs from the base"
        text += f", on any of {len(judged)} metrics over {over} held-out examples"
    elif count["no evidence"]:
        text += f"; on {count['no evidence']} there is no evidence either way"
    elif not worse:
        text += "; worse on none"
    return word, f"{text}."


def first_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the figure to name first.

    That is the first conclusive one in the recipe's order, with scores of answers before the loss. Empty if the
    headline already contains it, or if there is none.
    """
    judged = [r for r in rows if r["verdict"]]
    order = sorted(judged, key=lambda r: (r["verdict"] == "no evidence", r["name"].startswith("loss ")))
    return f"{_sentence(order[0])}." if len(judged) > 1 else ""


def _sentence(row: Mapping[str, Any]) -> str:
    found = row["difference"]
    tuned = f"The tuned model is {row['verdict']}"
    what = "No evidence of a difference" if row["verdict"] == "no evidence" else tuned
    return (
        f"{what} on {row['evals']}, {row['name']}: {figure(row['base'])} → {figure(row['tuned'])}, difference "
        f"{signed(found.mean)} (95% interval {signed(found.low)} to {signed(found.high)}, n = {found.n:,})"
    )


def adjustment(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the verdicts are adjusted for multiple comparisons."""
    judged = [r for r in rows if r["verdict"]]
    adjusted = [r for r in judged if r["metric"].p_adjusted is not None]
    if len(judged) < 2:
        return ""
    if adjusted:
        return (
            "The p-values are adjusted for testing several metrics (Holm): what could be chance among them counts "
            "as no evidence. The intervals are those of each metric by itself. Figures of one evaluator that measure "
            "one thing count as one metric."
        )
    return "The verdicts are not adjusted for testing several metrics: by chance alone one in twenty would stand out."


def subsets(evaluations: Sequence[ftp.Evaluation]) -> list[dict[str, Any]]:
    """Return for every metric with subsets its rows for `all`, `clean` and `leaked` examples, by name."""
    found = []
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            parts = {
                part: row(evaluation, same)
                for part, metrics in evaluation.subsets.items()
                for same in metrics
                if same.name == metric.name
            }
            if parts:
                whole = row(evaluation, metric)
                found.append({**whole, "parts": {**parts, "all": whole}})
    for line in found:
        for part in line["parts"].values():
            part["count"] = len(part["metric"].base_scores) or part["n"]
    return found


def standardised(row: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Return mean, low and high of the difference in standard deviations of one example's difference; right is better.

    The deviation is the one that the interval implies, so that metrics of any unit share an axis. None if there is
    none: no interval, or all examples differ equally.
    """
    found = row["difference"]
    if found is None or not all(map(math.isfinite, (found.mean, found.low, found.high))) or found.high <= found.low:
        return None
    unit = (found.high - found.low) / 2 / 1.96 * math.sqrt(found.n)
    sign = 1 if row["better"] == "higher" else -1
    low, high = sorted((sign * found.low / unit, sign * found.high / unit))
    return sign * found.mean / unit, low, high


def ledger_steps(run: ftp.FinishedRun) -> list[dict[str, Any]]:
    """Return the counts of rows after each step of the data stage; none if the ledger is from an older release."""
    import pyarrow.parquet as pq

    file = run.directory / "ledger.parquet"
    metadata = (pq.read_schema(file).metadata or {}) if file.is_file() else {}
    found: list[dict[str, Any]] = json.loads(metadata.get(b"steps", b"[]"))
    return found


def lineage_of(run: ftp.FinishedRun) -> list[Mapping[str, Any]]:
    """Return the runs that a run's model was made from, the last one first; empty where it is from none."""
    found, one = [], run.lock.get("lineage")
    while one:
        found.append(one)
        one = one.get("parent")
    return found


MEASURES = {
    "accuracy": "preference accuracy",
    "auc": "probability that a good answer has the higher reward",
    "margin": "margin of the rewards",
    "chosen_reward": "reward of chosen answers",
    "rejected_reward": "reward of rejected answers",
    "chosen_log_prob": "log-probability of chosen answers, nats each",
    "kl": "KL from the model before training, nats, estimated",
}
"""What preference training measures on its validation rows, by the names in the events, in words."""


def validation_measures(run: ftp.FinishedRun) -> list[dict[str, Any]]:
    """Return what the trainer measured on the validation rows, before training and at the state that was kept.

    Empty for a training that measures the loss alone.
    """
    kept = (run.training or {}).get("best_step")
    found = {event["step"]: event for event in run.events if event["event"] == "validation"}
    before, after = found.get(0), found.get(kept)
    if before is None or after is None:
        return []
    named = {name: words for name, words in MEASURES.items() if _number(before.get(name)) and _number(after.get(name))}
    return [{"name": words, "before": before[name], "after": after[name]} for name, words in named.items()]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
