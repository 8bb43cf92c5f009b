"""Loss curves as an SVG that takes its colours from the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

INK, TRAIN, VALIDATION = "#010203", "#010204", "#010205"
"""Stand-ins that no drawing uses otherwise; the page's own colours take their place."""


def loss_curves(events: Sequence[Mapping[str, Any]]) -> str:
    """Training and validation loss over the optimizer steps, or an empty string when nothing was trained."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    began = max((index for index, event in enumerate(events) if event["event"] == "plan"), default=0)
    train = [(e["step"], e["loss"]) for e in events[began:] if e["event"] == "metric" and isinstance(e["loss"], float)]
    watched = [(e["step"], e["loss"]) for e in events[began:] if e["event"] == "validation"]
    best = next((e["step"] for e in reversed(events) if e["event"] == "best"), None)
    if not train:
        return ""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ftp", "font.size": 10}):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*zip(*train, strict=True), color=TRAIN, alpha=0.3, linewidth=1)
        axes.plot(*zip(*_smooth(train), strict=True), color=TRAIN, linewidth=1.8, label="training (smoothed)")
        if watched:
            axes.plot(*zip(*watched, strict=True), color=VALIDATION, linewidth=1.8, marker="o", label="validation")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1, linestyle=":", label=f"kept: step {best}")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("nats per token")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set_color(INK)
        axes.tick_params(colors=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.legend(frameon=False, labelcolor=INK)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", '<svg role="img" aria-label="Loss over the steps of training" ', 1)
    for stand_in, colour in ((INK, "currentColor"), (TRAIN, "var(--train)"), (VALIDATION, "var(--validation)")):
        svg = svg.replace(stand_in, colour)
    return svg


def _smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running mean over a twentieth of the steps."""
    half = max(1, len(points) // 40)
    smoothed = []
    for index, (step, _) in enumerate(points):
        window = [loss for _, loss in points[max(0, index - half) : index + half + 1]]
        smoothed.append((step, sum(window) / len(window)))
    return smoothed
