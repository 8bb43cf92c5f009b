"""The page of `ftp lr-find`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftp.lm.learning_rates import rate_shown
from ftp_plugins.reporters.charts import INK, TRAIN, VALIDATION, drawn


def page(found: Mapping[str, Any], headline: str) -> str:
    """Render the curve and the suggestion as a self-contained page; `found` is what `ftp lr-find --json` prints."""
    from markupsafe import Markup

    from ftp_plugins.reporters.html import render_page

    return render_page("rate.html.j2", found=found, headline=headline, rate=rate_shown, curve=Markup(rate_curve(found)))


def rate_curve(found: Mapping[str, Any]) -> str:
    """Draw the loss of a range test over the learning rate, as an SVG.

    Args:
        found: `rates`, `losses`, `smoothed`, `start`, `suggestion`; and `usual`, a pair of rates or None.
    """
    with drawn("Loss over a rising learning rate", (8.4, 3.2)) as (axes, svg):
        axes.plot(found["rates"], found["losses"], color=TRAIN, alpha=0.3, linewidth=1)
        axes.plot(found["rates"], found["smoothed"], color=TRAIN, linewidth=1.8, label="loss (smoothed)")
        axes.axhline(found["start"], color=INK, linewidth=1, linestyle=":", label="untouched model")
        if found["usual"]:
            axes.axvspan(*found["usual"], color=INK, alpha=0.1, linewidth=0, label="usual rates")
        if found["suggestion"]:
            axes.axvline(found["suggestion"], color=VALIDATION, linewidth=1.8, label="suggestion")
        axes.set_xscale("log")
        axes.set_xlim(found["rates"][0], found["rates"][-1])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("nats per token")
        axes.legend(frameon=False, labelcolor=INK)
    return "".join(svg)
