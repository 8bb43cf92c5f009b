"""Rollouts on the terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from ftp.cli.console import Console
from ftp.records.rollouts import Rollout

MOST_STEPS = 30
"""Lines of the table of steps; of more steps, evenly spread ones are shown."""


def chosen(rollouts: Sequence[Rollout], step: int | None, prompt: str | None, sort: str, count: int) -> list[Rollout]:
    """Return the rollouts to show, in order."""
    found = [r for r in rollouts if step in (None, r["step"]) and prompt in (None, r["prompt"])]
    if sort == "step":
        return found[-count:]
    if sort == "longest":
        return sorted(found, key=lambda r: -r["tokens"])[:count]
    known = [r for r in found if not math.isnan(r["reward"])]
    return sorted(known, key=lambda r: r["reward"], reverse=sort == "best")[:count]


def show(steps: Sequence[Rollout], rollouts: Sequence[Rollout]) -> None:
    """Print a line for each step, and every rollout to show.

    Args:
        steps: all rollouts; none for no table.
    """
    console = Console(highlight=False, soft_wrap=True)
    if steps:
        console.print(_table_of_steps(steps))
    for rollout in rollouts:
        scores = ", ".join(f"{name} {score:g}" for name, score in rollout["rewards"].items())
        head = f"step {rollout['step']}  {rollout['prompt']}  reward {rollout['reward']:.3g} ({scores})"
        cut = "" if rollout["stopped"] else ", cut"
        console.print(
            f"[bold]{escape(head)}[/]  advantage {rollout['advantage']:+.2f}, {rollout['tokens']} tokens{cut}"
        )
        console.print(escape(rollout["answer"]))
        for name, reason in rollout.get("reasons", {}).items():
            console.print(f"[dim]{escape(f'{name}: {reason}')}[/]")


def _table_of_steps(rollouts: Sequence[Rollout]) -> Table:
    by_step: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        by_step.setdefault(rollout["step"], []).append(rollout)
    steps = sorted(by_step)
    every = math.ceil(len(steps) / MOST_STEPS)
    names = list(rollouts[0]["rewards"])
    table = Table("step", "answers", "reward", *names, "tokens", "cut", box=None, pad_edge=False)
    for step in sorted({*steps[::every], steps[-1]}):
        part = by_step[step]
        columns = [[r["reward"] for r in part], *([r["rewards"].get(name, math.nan) for r in part] for name in names)]
        means = [_mean(column) for column in columns]
        tokens = statistics.fmean(r["tokens"] for r in part)
        cut = sum(not r["stopped"] for r in part) / len(part)
        table.add_row(str(step), str(len(part)), *means, f"{tokens:.1f}", f"{cut:.0%}")
    return table


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.fmean(known):.3f}" if known else "-"
