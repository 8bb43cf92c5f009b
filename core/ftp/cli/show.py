"""The progress of a run in the terminal: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from ftp.cli.console import Console
from ftp.cli.echo import echo
from ftp.progress import Progress
from ftp.stats.verdicts import verdict_in_words
from ftp.types import FinishedRun, Metric

PLAIN_EVERY = 15.0
"""Seconds between two lines about the same stage without a terminal."""


@contextlib.contextmanager
def show() -> Iterator[Progress]:
    """Show progress as bars in a terminal, as plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Plain()
        return
    with live(console) as progress:
        yield progress


@contextlib.contextmanager
def live(console: Console) -> Iterator[Progress]:
    """Show one bar at a time on a console of 80 columns or more; a finished stage becomes a line above it."""
    columns = (
        TextColumn(
            "{task.description}", markup=False, table_column=Column(max_width=32, no_wrap=True, overflow="ellipsis")
        ),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Bars(*columns, console=console) as bars:
        progress = Live(bars)
        yield progress
        progress.end_stage()


class Live(Progress):
    """A bar for the stage in progress."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.task: TaskID | None = None
        self.validation = ""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        self.end_stage()
        self.task = task = self.bars.add_task(title, total=total, detail="")
        return lambda units: self.bars.advance(task, units)

    def end_stage(self) -> None:
        """Turn the bar of the finished stage into a line."""
        if self.task is None:
            return
        ended = next(task for task in self.bars.tasks if task.id == self.task)
        count = f" {ended.total:,.0f}," if ended.total else ""
        line = f"{ended.description}:{count} {timedelta(seconds=round(ended.elapsed or 0))}"
        self.bars.remove_task(self.task)
        self.task = None
        self.bars.refresh()  # else the removed bar is drawn once more below the line
        self.bars.console.print(line, style="dim", markup=False, highlight=False)

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        if event == "plan":
            if self.task is not None:
                self.bars.update(self.task, total=values["steps"])
            self.bars.console.print(plan_line(values), markup=False, highlight=False)
        elif event == "speed" and "multiplies_in" in values:
            self.bars.console.print(speed_line(values), markup=False, highlight=False)
        elif event == "validation":
            self.validation = f", val {values['loss']:.3f}{accuracy_part(values)}"
        elif event == "metric" and self.task is not None:
            # The time left has a column of its own.
            parts = metric_parts(values)
            detail = ", ".join([f"{parts[0]}{self.validation}", *parts[1:]])
            self.bars.update(self.task, completed=values["step"], detail=detail)
        elif event in ("note", "watcher"):
            self.note(watcher_line(event, values))

    def note(self, text: str) -> None:
        self.bars.console.print(text, style="yellow", markup=False, highlight=False)


class Plain(Progress):
    """Lines on stderr."""

    def __init__(self) -> None:
        self.title = ""
        self.total: int | None = None
        self.done = 0
        self.began = self.last = time.monotonic()

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        self.title, self.total, self.done, self.began = title, total, 0, time.monotonic()
        self._line(f"{title} …")
        return self._advance

    def _advance(self, units: int) -> None:
        self.done += units
        of = left = ""
        if self.total:
            seconds = (time.monotonic() - self.began) / self.done * (self.total - self.done)
            of, left = f" of {self.total}", f", {timedelta(seconds=round(seconds))} left"
        self._now_and_then(f"{self.title}: {self.done}{of}{left}")

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        if event == "plan":
            self.total = values["steps"]
            self._line(plan_line(values))
        elif event == "speed" and "multiplies_in" in values:
            self._line(speed_line(values))
        elif event == "validation":
            self._line(f"step {values['step']}: validation loss {values['loss']:.4f}{accuracy_part(values)}")
        elif event == "metric":
            parts = [*metric_parts(values), *time_left(values, self.total)]
            self._now_and_then(f"step {values['step']} of {self.total}: {', '.join(parts)}")
        elif event in ("note", "watcher"):
            self.note(watcher_line(event, values))

    def note(self, text: str) -> None:
        self._line(text)

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self.last >= PLAIN_EVERY:
            self._line(text)

    def _line(self, text: str) -> None:
        self.last = time.monotonic()
        echo(text, err=True)


def plan_line(values: Mapping[str, Any]) -> str:
    """Format the plan of a training as a line: first its figures, then its remarks."""
    figures = [f"{key.replace('_', ' ')} {value:,}" for key, value in values.items() if isinstance(value, int)]
    words = [f"{key.replace('_', ' ')} {value}" for key, value in values.items() if isinstance(value, str)]
    return ", ".join(figures + words)


def speed_line(values: Mapping[str, Any]) -> str:
    """Say in a line what the speed of a training comes from."""
    shared = values.get("shared_tokens", 0)
    more = f"; {shared:,} tokens an epoch are computed once with those of another row" if shared else ""
    return f"{products_line(values)}{more}"


def products_line(values: Mapping[str, Any]) -> str:
    """Say in which type the products of a training are computed, and how fast those measured are."""
    speeds = ", ".join(f"{name} {speed:,.0f} GFLOP/s" for name, speed in values.get("gflops", {}).items())
    return f"products are computed in {values['multiplies_in']}{f' (measured: {speeds})' if speeds else ''}"


def metric_parts(values: Mapping[str, Any]) -> list[str]:
    """Return loss, speed and memory in words, as far as the trainer reports them."""
    parts = [f"loss {values['loss']:.3f}"]
    if values.get("tokens_per_second"):
        parts.append(f"{values['tokens_per_second']:,.0f} tok/s")
    if values.get("memory_mb"):
        parts.append(f"{values['memory_mb'] / 1000:.1f} GB")
    return parts


def accuracy_part(values: Mapping[str, Any]) -> str:
    """Return the accuracy of a validation in words; empty where the trainer measures none."""
    return f", accuracy {values['accuracy']:.1%}" if isinstance(values.get("accuracy"), float) else ""


def time_left(values: Mapping[str, Any], steps: int | None) -> list[str]:
    """Return the remaining time in words, or an empty string if it isn't known."""
    if not (steps and values.get("seconds") and values["step"]):
        return []
    seconds = values["seconds"] / values["step"] * (steps - values["step"])
    return [f"{timedelta(seconds=round(seconds))} left"]


def watcher_line(event: str, values: Mapping[str, Any]) -> str:
    if event == "note":
        return str(values["text"])
    what = {"stop": "stops training", "roll back": "returns to the last checkpoint"}.get(values["asks"], "warns")
    return f"{values['by']} {what}: {values['reason']}"


def three_lines(run: FinishedRun) -> list[str]:
    """Format the result in at most three lines: the most important figures, base against tuned."""
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
