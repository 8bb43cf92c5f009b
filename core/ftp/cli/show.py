"""How a run looks in the terminal: bars where there is one, plain lines where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ftp.progress import Progress
from ftp.stats.paired import verdict_in_words
from ftp.types import FinishedRun, Metric

PLAIN_EVERY = 15.0
"""Seconds between two lines about the same stage when there is no terminal."""


@contextlib.contextmanager
def show() -> Iterator[Progress]:
    """A Progress for this terminal, or for the lack of one."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Plain()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )  # fmt: skip
    with Bars(*columns, console=console) as bars:
        yield Live(bars)


class Live(Progress):
    """Bars."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.task = bars.add_task("Starting", total=None, detail="")
        self.validation = ""
        self.total: int | None = None

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        self._end()
        self.task = self.bars.add_task(title, total=total, detail="")
        return lambda units: self.bars.advance(self.task, units)

    def _end(self) -> None:
        found = next(task for task in self.bars.tasks if task.id == self.task)
        done = max(found.completed, 1)
        self.bars.update(self.task, total=found.total or done, completed=found.total or done)

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        if event == "plan":
            self.total = values["steps"]
            self.bars.update(self.task, total=values["steps"])
            self.bars.console.print(plan_line(values), markup=False, highlight=False)
        elif event == "validation":
            self.validation = f", validation {values['loss']:.3f}"
        elif event == "metric":
            detail = f"{metric_line(values, self.total)}{self.validation}"
            self.bars.update(self.task, completed=values["step"], detail=detail)
        elif event in ("note", "watcher"):
            self.note(told(event, values))

    def note(self, text: str) -> None:
        self.bars.console.print(text, style="yellow", markup=False, highlight=False)


class Plain(Progress):
    """Lines on stderr."""

    def __init__(self) -> None:
        self.title = ""
        self.total: int | None = None
        self.done = 0
        self.last = time.monotonic()

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        self.title, self.total, self.done = title, total, 0
        self._line(f"{title} …")
        return self._advance

    def _advance(self, units: int) -> None:
        self.done += units
        self._now_and_then(f"{self.title}: {self.done}{f' of {self.total}' if self.total else ''}")

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        if event == "plan":
            self.total = values["steps"]
            self._line(plan_line(values))
        elif event == "validation":
            self._line(f"step {values['step']}: validation loss {values['loss']:.4f}")
        elif event == "metric":
            self._now_and_then(f"step {values['step']} of {self.total}: {metric_line(values, self.total)}")
        elif event in ("note", "watcher"):
            self.note(told(event, values))

    def note(self, text: str) -> None:
        self._line(text)

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self.last >= PLAIN_EVERY:
            self._line(text)

    def _line(self, text: str) -> None:
        self.last = time.monotonic()
        print(text, file=sys.stderr, flush=True)


def plan_line(values: Mapping[str, Any]) -> str:
    """The plan of a training in a line: its figures, then what is told in words."""
    figures = [f"{key.replace('_', ' ')} {value:,}" for key, value in values.items() if isinstance(value, int)]
    words = [f"{key.replace('_', ' ')} {value}" for key, value in values.items() if isinstance(value, str)]
    return ", ".join(figures + words)


def metric_line(values: Mapping[str, Any], steps: int | None) -> str:
    """Loss, speed, memory and the time left, of those that the trainer tells."""
    parts = [f"loss {values['loss']:.3f}"]
    if values.get("tokens_per_second"):
        parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
    if values.get("memory_mb"):
        parts.append(f"{values['memory_mb'] / 1000:.1f} GB")
    if steps and values.get("seconds") and values["step"]:
        left = values["seconds"] / values["step"] * (steps - values["step"])
        parts.append(f"{timedelta(seconds=round(left))} left")
    return ", ".join(parts)


def told(event: str, values: Mapping[str, Any]) -> str:
    if event == "note":
        return str(values["text"])
    what = {"stop": "stops training", "roll back": "goes back to the last checkpoint"}.get(values["asks"], "warns")
    return f"{values['by']} {what}: {values['reason']}"


def three_lines(run: FinishedRun) -> list[str]:
    """The result in at most three lines: the figures that matter most, base against tuned."""
    lines = []
    for evaluation in run.evaluations:
        metric = evaluation.metrics[0]
        lines.append(f"{evaluation.evals}, {evaluation.evaluator} {metric.name}: {in_words(metric)}, n={evaluation.n}")
    shown = lines[:3]
    if len(lines) > 3:
        shown[2] += f" (and {len(lines) - 3} more in the report)"
    return shown


def in_words(metric: Metric) -> str:
    words = f"base {metric.base:.3f}, tuned {metric.tuned:.3f}"
    if metric.difference is None:
        return words
    low, high = metric.difference.low, metric.difference.high
    return f"{words}, difference {metric.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}], {verdict_in_words(metric)}"
