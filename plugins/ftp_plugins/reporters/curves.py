"""The training curves of a run, from its events."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftp.runs.events import done_until
from ftp_plugins.reporters.charts import BAD, GOOD, INK, SOFT, TRAIN, VALIDATION, drawn, printable

Events = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]
SIZE = (5.6, 2.9)
MOST_POINTS = 1200
"""Longer lines are thinned for the page: a chart has fewer pixels."""
MOST_MARKS = 200
"""Marks of a kind in a chart, and lines in the list of what happened; the list says how many it leaves out."""
LOSS_UNIT = "nats per token"
"""Unit of the loss in runs of earlier releases."""
DASHES = ("--", ":", "-.", (0, (5, 1)), (0, (1, 1)))


def last_training(events: Events) -> Events:
    """Return the events of the training that produced the model; a plan that resumes belongs to the one before."""
    began, plan = 0, None
    for index, event in enumerate(events):
        if event["event"] == "plan":
            plan = index
        elif plan is not None and event["event"] not in ("watcher", "note", "speed"):
            began, plan = began if event["event"] == "resume" else plan, None
    return events[began if plan is None else plan :]


def curves(events: Events) -> list[tuple[str, str]]:
    """Draw every curve for which there is data; return their titles and SVGs."""
    training = last_training(events)
    unit = next((str(e["loss_unit"]) for e in training if e["event"] == "plan" and e.get("loss_unit")), LOSS_UNIT)
    charts = _charts(done_until(training), printable(unit, 40))
    return [_curve(last_training(events), *chart, named=not place) for place, chart in enumerate(charts)]


def _charts(held: Events, unit: str) -> list[tuple[str, str, Callable[[Any], None]]]:
    """Return title, unit and drawing function of the charts, without steps that were repeated later."""
    validation = [e for e in held if e["event"] == "validation"]
    train, watched = points(held, "metric", "loss"), points(held, "validation", "loss")
    charts: list[tuple[str, str, Callable[[Any], None]]] = []
    if earned := points(held, "metric", "reward"):
        draw = functools.partial(_losses, earned, points(held, "validation", "reward"))
        charts.append(("Reward", "mean reward", draw))
        charts += _rewarded(held)
    elif train or watched:
        charts.append(("Loss", unit, functools.partial(_losses, train, watched)))
    if sources := _sources(validation):
        draw = functools.partial(_losses_by_source, sources)
        charts.append(("Validation loss of each source", unit, draw))
    if scores := points(held, "validation", "score"):
        name = printable(str(next((e["best_by"] for e in reversed(validation) if e.get("best_by")), "score")), 40)
        charts.append(("The score by which the best step is chosen", name, functools.partial(_scores, scores)))
    if answers := _answers(held):
        charts.append(("Preference accuracy", "share of the pairs", functools.partial(_shares, *answers)))
    if rewards := _rewards(held):
        charts.append(("Rewards on the validation rows", "reward", functools.partial(_losses_by_source, rewards)))
    for title, unit, key in (
        ("Learning rate", "rate", "learning_rate"),
        ("Gradient norm", "norm before clipping", "grad_norm"),
    ):
        if line := points(held, "metric", key):
            charts.append((title, unit, functools.partial(_plain_line, line)))
    return charts


def _rewarded(held: Events) -> list[tuple[str, str, Callable[[Any], None]]]:
    """Return the charts of a training with rewards that show how the rewards are earned."""
    charts: list[tuple[str, str, Callable[[Any], None]]] = []
    names = sorted(
        {key for e in held if e["event"] == "metric" for key in e if key.startswith("reward_")} - {"reward_std"}
    )
    if len(names) > 1:
        lines = {name.removeprefix("reward_"): smooth(points(held, "metric", name)) for name in names}
        draw = functools.partial(_losses_by_source, {name: line for name, line in lines.items() if line})
        charts.append(("Each reward, smoothed", "mean score", draw))
    for title, unit, key in (
        ("Length of answers", "tokens", "answer_tokens"),
        ("KL from the model before training", "nats per token", "kl"),
        ("Entropy of answers", "nats per token", "entropy"),
    ):
        if line := points(held, "metric", key):
            charts.append((title, unit, functools.partial(_losses, line, points(held, "validation", key))))
    return charts


def _curve(training: Events, title: str, unit: str, draw: Callable[[Any], None], *, named: bool) -> tuple[str, str]:
    """Draw one chart; `named` puts the marks of events into its legend."""
    best = next((e for e in reversed(training) if e["event"] == "best"), None)
    with drawn(title, SIZE) as (axes, svg):
        draw(axes)
        _mark(axes, training, best, named=named)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit)
        if len(axes.get_legend_handles_labels()[1]):
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
        if unit == "rate":
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    return title, "".join(svg)


def _losses(train: Points, validation: Points, axes: Any) -> None:
    if train:
        axes.plot(*_columns(thinned(train)), color=TRAIN, alpha=0.28, linewidth=1)
        axes.plot(*_columns(thinned(smooth(train))), color=TRAIN, linewidth=1.8, label="training, smoothed")
    if validation:
        axes.plot(*_columns(thinned(validation)), color=VALIDATION, linewidth=1.8, marker="o", ms=4, label="validation")
    _fit(axes, [*smooth(train), *validation])


def _losses_by_source(sources: Mapping[str, Points], axes: Any) -> None:
    for place, (name, line) in enumerate(sources.items()):
        colour = (VALIDATION, TRAIN, INK)[place % 3]
        style = DASHES[place % len(DASHES)]
        axes.plot(*_columns(thinned(line)), color=colour, linestyle=style, marker="o", ms=3, label=printable(name, 28))


def _answers(held: Events) -> tuple[Points, Points] | None:
    """Return the shares of pairs whose chosen answer has the higher reward, in training and in validation."""
    found = points(held, "metric", "accuracy"), points(held, "validation", "accuracy")
    return found if any(found) else None


def _shares(train: Points, validation: Points, axes: Any) -> None:
    if train:
        axes.plot(*_columns(thinned(smooth(train))), color=TRAIN, linewidth=1.8, label="training, smoothed")
    if validation:
        axes.plot(*_columns(thinned(validation)), color=VALIDATION, linewidth=1.8, marker="o", ms=4, label="validation")


def _rewards(held: Events) -> dict[str, Points]:
    """Return the curves of rewards in validations; empty for a training without."""
    keys = {"chosen": "chosen_reward", "rejected": "rejected_reward", "margin": "margin"}
    return {name: line for name, key in keys.items() if (line := points(held, "validation", key))}


def _scores(line: Points, axes: Any) -> None:
    axes.plot(*_columns(thinned(line)), color=VALIDATION, linewidth=1.8, marker="o", ms=4)


def _plain_line(line: Points, axes: Any) -> None:
    axes.plot(*_columns(thinned(line)), color=TRAIN, linewidth=1.2)


def happenings(events: Events) -> list[dict[str, Any]]:
    """Return the events of the training in words and in order.

    They are watchers' decisions, roll-backs, resumes, and the step that was kept.
    """
    found = []
    for event in last_training(events):
        step = event.get("step")
        match event["event"]:
            case "watcher":
                does = {"stop": "stopped training", "roll back": "went back to a checkpoint"}.get(
                    event["asks"], "warned"
                )
                found.append({"step": step, "what": f"{event['by']} {does}", "why": event["reason"]})
            case "rollback":
                factor = event.get("factor")
                why = f"learning rate multiplied by {factor:g} from there on" if isinstance(factor, int | float) else ""
                found.append({"step": step, "what": "rolled back to this step", "why": why})
            case "resume":
                found.append({"step": step, "what": "resumed from this step", "why": "after an interruption"})
            case "best":
                by = event.get("best_by", "loss")
                why = "lowest validation loss" if by == "loss" else f"best {by}"
                found.append({"step": step, "what": "the state of this step was kept", "why": why})
    if len(found) > MOST_MARKS:
        left = {"step": None, "what": f"… and {len(found) - MOST_MARKS:,} more", "why": "see events.jsonl"}
        return [*found[:MOST_MARKS], left]
    return found


def points(events: Events, event: str, key: str) -> Points:
    """Return step and value of every event of a kind; a value that is not a finite number has no point."""
    return [
        (e["step"], e[key])
        for e in events
        if e["event"] == event and isinstance(e.get(key), int | float) and math.isfinite(e[key])
    ]


def smooth(line: Points) -> Points:
    """Return a running mean over a twentieth of the points."""
    half = max(1, len(line) // 40)
    sums = [0.0]
    for _, value in line:
        sums.append(sums[-1] + value)
    ends = [(max(0, i - half), min(len(line), i + half + 1)) for i in range(len(line))]
    return [(line[i][0], (sums[end] - sums[begin]) / (end - begin)) for i, (begin, end) in enumerate(ends)]


def thinned(line: Points) -> Points:
    """Return every nth point of a long line, and its last."""
    every = math.ceil(len(line) / MOST_POINTS) or 1
    return [*line[:-1:every], line[-1]]


def _columns(line: Points) -> tuple[list[float], list[float]]:
    return [step for step, _ in line], [value for _, value in line]


def _sources(validation: Events) -> dict[str, Points]:
    names = dict.fromkeys(name for e in validation for name in e.get("by_source") or {})
    lines = {
        name: [(e["step"], loss) for e in validation if isinstance(loss := (e.get("by_source") or {}).get(name), float)]
        for name in names
    }
    return {name: line for name, line in lines.items() if line}


def _fit(axes: Any, line: Points) -> None:
    """Keep a single wild batch from flattening the curves: the axis fits the smoothed line and the validations."""
    values = [value for _, value in line]
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or 0.1
    axes.set_ylim(low - room, high + room)


def _mark(axes: Any, training: Events, best: Mapping[str, Any] | None, named: bool) -> None:
    """Draw lines at the step that was kept, at watchers' decisions, and where training was resumed."""
    marks = {
        "kept": ([best["step"]] if best else [], GOOD, "-"),
        "watcher": ([e["step"] for e in training if e["event"] == "watcher" and e.get("step") is not None], BAD, ":"),
        "rolled back to": ([e["step"] for e in training if e["event"] == "rollback"], BAD, "--"),
        "resumed": ([e["step"] for e in training if e["event"] == "resume"], SOFT, "--"),
    }
    for name, (steps, colour, style) in marks.items():
        for number, step in enumerate(list(dict.fromkeys(steps))[:MOST_MARKS]):
            axes.axvline(
                step, color=colour, linewidth=1.2, linestyle=style, label=name if named and not number else None
            )
