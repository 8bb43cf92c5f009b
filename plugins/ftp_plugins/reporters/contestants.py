"""The specialist beside other models: quality, and what an answer takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ftp
from ftp_plugins.reporters.charts import GOOD, INK, TRAIN, drawn, printable
from ftp_plugins.reporters.tables import figure, is_general, row

THOUSAND = 1000
"""Answers that a cost is given for."""


def contestants(run: ftp.FinishedRun) -> dict[str, Any]:
    """Return the tables and the chart of the contestants; an empty mapping for a run without them.

    Returns:
        `metrics`: the columns of quality; `models`: a line for each model with its `scores` and what an answer took;
        `rows`: the tuned model against each contestant, as `tables.rows_of` has them; `notes`; `chart`: an SVG.
    """
    if not run.against:
        return {}
    columns = _columns(run)
    names = list(dict.fromkeys(found.against for found in run.against))
    models = [_line(run, who, columns) for who in ("base", *names, "tuned")]
    rows = [
        {**row(found, metric), "evals": f"{found.evals} · {found.against}"}
        for found in run.against
        for metric in found.metrics
    ]
    notes = [(f.evals, f"{f.evaluator} against {f.against}", note) for f in run.against for note in f.notes]
    return {
        "metrics": [_title(run, column) for column in columns],
        "models": models,
        "rows": rows,
        "notes": notes,
        "chart": _chart(models, [_title(run, column) for column in columns]),
        "per": THOUSAND,
    }


Column = tuple[str, str, str]
"""An eval set, an evaluator and a metric."""


def _columns(run: ftp.FinishedRun) -> list[Column]:
    """Return the metrics that every model can have, in the order of the recipe."""
    return [
        (found.evals, found.evaluator, metric.name)
        for found in run.evaluations
        if not is_general(run, found)
        for metric in found.metrics
        if metric.difference is not None
    ]


def _title(run: ftp.FinishedRun, column: Column) -> str:
    evals, evaluator, metric = column
    return f"{evaluator} {metric}" if len(run.recipe["data"]["evals"]) == 1 else f"{evaluator} {metric} on {evals}"


def _line(run: ftp.FinishedRun, who: str, columns: Sequence[Column]) -> dict[str, Any]:
    usage = next((usage for usage in run.usage if usage.who == who), None)
    return {
        "who": who,
        "model": _model(run, who),
        "scores": [_score(run, who, column) for column in columns],
        "tokens": usage and usage.tokens,
        "seconds": usage and usage.seconds,
        "cost": usage.cost * THOUSAND if usage and usage.cost is not None else None,
    }


def _score(run: ftp.FinishedRun, who: str, column: Column) -> dict[str, Any] | None:
    """Return a model's figure, and how the tuned model compares with it; None where it has none."""
    own = who in ("base", "tuned")
    for found in run.evaluations if own else run.against:
        if (found.evals, found.evaluator) != column[:2] or (not own and found.against != who):
            continue
        for metric in found.metrics:
            if metric.name == column[2]:
                value = metric.tuned if who == "tuned" else metric.base
                line = row(found, metric)
                return {"value": value, "verdict": "" if who == "tuned" else line["verdict"], "row": line}
    return None


def _model(run: ftp.FinishedRun, who: str) -> str:
    """Return what a model is, in words."""
    if who in ("base", "tuned"):
        return f"{run.lock['model']['name']}{', tuned' if who == 'tuned' else ''}"
    block = run.recipe["against"][who]
    name = next((str(block[key]) for key in ("model", "id", "file") if block.get(key)), "")
    return f"{name.rsplit('/', 1)[-1] if name.startswith('/') else name} by {block['use']}" if name else block["use"]


def _chart(models: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    """Draw quality against the cost of a thousand answers, or against their time where costs are not known.

    The quality is the first metric that every model has and in which they differ.
    """
    columns = [[model["scores"][at] for model in models] for at in range(len(metrics))]
    telling = (at for at, scores in enumerate(columns) if all(scores) and len({s["value"] for s in scores}) > 1)
    at = next(telling, None)
    if at is None:
        return ""
    quality = metrics[at]
    priced = sum(model["cost"] is not None for model in models) > 1
    key, label = ("cost", f"cost of {THOUSAND:,} answers") if priced else ("seconds", "seconds for an answer")
    points = [(model[key], model["scores"][at]["value"], model["who"]) for model in models if model[key] is not None]
    if len(points) < 2:
        return ""
    with drawn(f"{quality} against {label}", (6.4, 3.4)) as (axes, svg):
        for x, y, who in points:
            colour = {"tuned": GOOD, "base": INK}.get(who, TRAIN)
            axes.plot([x], [y], marker="o", markersize=9, color=colour, linestyle="none")
            place = (8, -14 if who == "tuned" else 6)  # base and tuned are often neighbours
            axes.annotate(printable(who, 24), (x, y), place, textcoords="offset points", color=colour)
        least, most = min(x for x, _, _ in points), max(x for x, _, _ in points)
        if least > 0 and most > 10 * least:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # its own labels are mathematical text
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.margins(0.2)
        axes.set_xlabel(label)
        axes.set_ylabel(quality)
    return "".join(svg)


def amount(value: float | None) -> str:
    """Format a cost or a time with three significant digits; a dash where there is none."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < THOUSAND else figure(value)
