"""The cost of a run, planned and measured: steps, time, tokens, memory, judge calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import ftp
from ftp_plugins.reporters.curves import last_training
from ftp_plugins.reporters.judge_panel import shown


def costs(run: ftp.FinishedRun) -> list[dict[str, str]]:
    """Return the lines of the table of costs: what, planned and measured; lines with neither are left out."""
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
        ("Tokens processed in training", _count(plan.get("tokens")), _count(tokens)),
        ("Trained tokens", _count(plan.get("trained_tokens")), _count(run.training.get("trained_tokens"))),
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
        ("cost without cache", "Judge cost without the cache"),
    ):
        values = [v for e in run.evaluations if isinstance(v := e.panel.get(name), int | float)]
        if values:
            lines.append((title, "", shown(name, sum(values))))
    return [{"what": what, "planned": a, "measured": b} for what, a, b in lines if a or b]


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
