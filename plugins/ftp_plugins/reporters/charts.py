"""Charts as SVGs that take their colours from the page."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INK, TRAIN, VALIDATION = "#010203", "#010204", "#010205"
"""Stand-ins that no drawing uses otherwise; the page's own colours take their place."""


def loss_curves(events: Sequence[Mapping[str, Any]]) -> str:
    """Training and validation loss over the optimizer steps, or an empty string when nothing was trained."""
    import matplotlib

    matplotlib.use("svg")

    began = max((index for index, event in enumerate(events) if event["event"] == "plan"), default=0)
    train = [(e["step"], e["loss"]) for e in events[began:] if e["event"] == "metric" and isinstance(e["loss"], float)]
    watched = [(e["step"], e["loss"]) for e in events[began:] if e["event"] == "validation"]
    best = next((e["step"] for e in reversed(events) if e["event"] == "best"), None)
    if not train:
        return ""
    with _drawn("Loss over the steps of training", (8.4, 3.2)) as (axes, svg):
        axes.plot(*zip(*train, strict=True), color=TRAIN, alpha=0.3, linewidth=1)
        axes.plot(*zip(*_smooth(train), strict=True), color=TRAIN, linewidth=1.8, label="training (smoothed)")
        if watched:
            axes.plot(*zip(*watched, strict=True), color=VALIDATION, linewidth=1.8, marker="o", label="validation")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1, linestyle=":", label=f"kept: step {best}")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("nats per token")
        axes.legend(frameon=False, labelcolor=INK)
    return "".join(svg)


def token_histogram(bins: Sequence[Mapping[str, int]]) -> str:
    """How many rows have how many tokens, as an SVG; `bins` have `from`, `to` and `rows`."""
    with _drawn("Rows by their number of tokens", (8.4, 2.6)) as (axes, svg):
        names = [f"{bin['from']}-{bin['to']}" for bin in bins]
        bars = axes.bar(names, [bin["rows"] for bin in bins], color=TRAIN)
        axes.bar_label(bars, fmt="{:,.0f}", color=INK, fontsize=9)
        axes.set_xlabel("tokens")
        axes.set_ylabel("rows")
    return "".join(svg)


def row_steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """Where the rows are after each step of the data stage, as an SVG of stacked bars."""
    parts = (("train", TRAIN, 1.0), ("validation", VALIDATION, 1.0), ("evals", INK, 0.45), ("dropped", INK, 0.15))
    with _drawn("Rows after each step", (8.4, 0.8 + 0.42 * len(steps))) as (axes, svg):
        names = [f"{number}. {step['after']}" for number, step in enumerate(steps, 1)]
        left = [0] * len(steps)
        for part, colour, alpha in parts:
            counts = [step[part] for step in steps]
            axes.barh(names, counts, left=left, color=colour, alpha=alpha, label=part)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("rows")
        axes.legend(frameon=False, labelcolor=INK, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return "".join(svg)


@contextlib.contextmanager
def _drawn(label: str, size: tuple[float, float]) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on, and a list that holds the SVG once the block has ended."""
    import matplotlib
    from matplotlib.figure import Figure

    svg: list[str] = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ftp", "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        yield axes, svg
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set_color(INK)
        axes.tick_params(colors=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    for stand_in, colour in ((INK, "currentColor"), (TRAIN, "var(--train)"), (VALIDATION, "var(--validation)")):
        text = text.replace(stand_in, colour)
    svg.append(text)


def _smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running mean over a twentieth of the steps."""
    half = max(1, len(points) // 40)
    smoothed = []
    for index, (step, _) in enumerate(points):
        window = [loss for _, loss in points[max(0, index - half) : index + half + 1]]
        smoothed.append((step, sum(window) / len(window)))
    return smoothed
