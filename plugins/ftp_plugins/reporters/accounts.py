"""What a run used and what its instruments are worth: judge's panel, data ledger, time, memory, cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import ftp
from ftp_plugins.reporters.curves import last_training
from ftp_plugins.reporters.figures import figure

MEANS = {
    "order consistency": "both orders of a pair have the same winner; a judge that goes by position alone has 0%",
    "length correlation": "of score and length; near 0 is best",
    "longer answer wins": "share of the decided pairs that the longer answer won; 50% is best",
    "length-controlled win rate": "what the win rate would be between answers of equal length",
    "length flag": "scores go along with length",
    "order flag": "the winner changes with the order",
    "scores flag": "no answer is told from another",
    "unscored": "answers or pairs without a readable verdict; left out of the figures, never counted as wrong",
    "gold agreement": "with people's verdicts on the gold set",
    "gold kappa": "agreement beyond chance, Cohen's kappa",
    "gold weighted kappa": "agreement beyond chance, Cohen's kappa with quadratic weights",
    "prompt": "version and hash of the judge's prompt",
    "calls from cache": "not paid again",
}
SHARES = {"unscored", "order consistency", "win rate", "gold agreement", "longer answer wins", "gold unscored"}
SHARES |= {"length-controlled win rate", "gold order consistency"}
MUCH_UNSCORED = 0.05
"""Share of unscored answers from which the panel warns."""


def panel(evaluation: ftp.Evaluation) -> list[dict[str, Any]]:
    """The lines of an instrument panel: name, value with its interval, what it means, and whether it is a warning."""
    found = []
    for name, value in evaluation.panel.items():
        if name.endswith((", low", ", high")):
            continue
        ends = [evaluation.panel.get(f"{name}, {end}") for end in ("low", "high")]
        shown = _shown(name, value)
        if all(isinstance(end, int | float) for end in ends):
            shown += f" ({_shown(name, ends[0])} to {_shown(name, ends[1])})"
        bad = name.endswith(" flag") or (name == "unscored" and isinstance(value, float) and value > MUCH_UNSCORED)
        found.append({"name": name, "value": shown, "means": MEANS.get(name, ""), "bad": bad})
    return found


def _shown(name: str, value: Any) -> str:
    if isinstance(value, str) or not math.isfinite(value):
        return str(value)
    if name in SHARES:
        return f"{value:.1%}"
    if isinstance(value, int) or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.4f}" if "cost" in name else figure(value)


def costs(run: ftp.FinishedRun) -> list[dict[str, str]]:
    """Lines of what, planned and measured; a line with neither is left out."""
    training = last_training(run.events)
    plan = next((event for event in training if event["event"] == "plan"), {})
    metrics = [event for event in training if event["event"] == "metric"]
    last = metrics[-1] if metrics else {}
    seconds, tokens = run.training.get("seconds"), last.get("tokens")
    memory = [event["memory_mb"] for event in metrics if isinstance(event.get("memory_mb"), int | float)]
    rehearsal = next((event for event in training if event["event"] == "rehearsal"), {})
    # A report that is written again has to say the same: the first one is written before the end.
    stamps = [event["time"] for event in run.events if "time" in event and event["event"] != "end"]
    lines = [
        ("Optimizer steps", _count(plan.get("steps")), _count(run.training.get("steps"))),
        ("Training time", _duration(plan.get("seconds")), _duration(seconds)),
        ("Tokens through training", _count(plan.get("tokens")), _count(tokens)),
        ("Tokens that carried loss", _count(plan.get("trained_tokens")), _count(run.training.get("trained_tokens"))),
        ("Tokens per second", _count(plan.get("tokens_per_second")), _count(_ratio(tokens, seconds))),
        (
            "Peak memory",
            _memory(plan.get("memory_mb"), "") or _memory(rehearsal.get("memory_mb"), " (rehearsal)"),
            _memory(max(memory, default=None), ""),
        ),
        ("From first to last event, pauses included", "", _elapsed(stamps)),
    ]
    for name, title in (
        ("calls", "Judge calls"),
        ("prompt tokens", "Judge prompt tokens"),
        ("completion tokens", "Judge completion tokens"),
        ("cost", "Judge cost"),
        ("cost without cache", "Judge cost, had nothing been cached"),
    ):
        values = [v for e in run.evaluations if isinstance(v := e.panel.get(name), int | float)]
        if values:
            lines.append((title, "", _shown(name, sum(values))))
    return [{"what": what, "planned": a, "measured": b} for what, a, b in lines if a or b]


def steps(run: ftp.FinishedRun) -> list[dict[str, Any]]:
    """The rows after each step of the data stage, as the ledger has them; none where it is of an older release."""
    import pyarrow.parquet as pq

    file = run.directory / "ledger.parquet"
    metadata = (pq.read_schema(file).metadata or {}) if file.is_file() else {}
    found: list[dict[str, Any]] = json.loads(metadata.get(b"steps", b"[]"))
    return found


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _ratio(value: float | None, seconds: float | None) -> float | None:
    return value / seconds if value and seconds else None


def _memory(value: float | None, note: str) -> str:
    return "" if value is None else f"{value / 1000:.2f} GB{note}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _elapsed(stamps: Sequence[str]) -> str:
    if len(stamps) < 2:
        return ""
    first, last = (datetime.fromisoformat(stamp) for stamp in (stamps[0], stamps[-1]))
    return _duration((last - first).total_seconds())
