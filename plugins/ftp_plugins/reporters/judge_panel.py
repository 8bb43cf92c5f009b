"""The judge's panel in the report: how far the judge can be trusted, line by line."""

from __future__ import annotations

import math
from typing import Any

import ftp
from ftp_plugins.reporters.tables import figure

MEANS = {
    "order consistency": "both orders of a pair have the same winner; a judge that goes by position alone has 0%",
    "length correlation": "of score and length; near 0 is best",
    "longer answer wins": "share of the decided pairs that the longer answer won; 50% is best",
    "length-controlled win rate": "what the win rate would be between answers of equal length",
    "length flag": "scores depend on length",
    "order flag": "the winner changes with the order",
    "coin flag": "its verdicts may be chance",
    "ties flag": "no answer is told from another",
    "refusals flag": "what is left out favours a model",
    "unscored flag": "examples without a score could turn it",
    "tuned model at the least": "its figure if everything unscored had gone against it",
    "tuned model at the most": "its figure if everything unscored had gone its way",
    "scores flag": "all answers get the same scores",
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
"""Share of unscored answers above which the panel warns."""


def panel(evaluation: ftp.Evaluation) -> list[dict[str, Any]]:
    """Return the lines of a judge's panel: name, value with its interval, meaning, and whether it is a warning."""
    found = []
    for name, value in evaluation.panel.items():
        if name.endswith((", low", ", high")):
            continue
        ends = [evaluation.panel.get(f"{name}, {end}") for end in ("low", "high")]
        text = shown(name, value)
        if all(isinstance(end, int | float) for end in ends):
            text += f" ({shown(name, ends[0])} to {shown(name, ends[1])})"
        bad = name.endswith(" flag") or (name == "unscored" and isinstance(value, float) and value > MUCH_UNSCORED)
        found.append({"name": name, "value": text, "means": MEANS.get(name, ""), "bad": bad})
    return found


def shown(name: str, value: Any) -> str:
    """Format a value of the panel by its name.

    A share becomes a percentage, a count an integer, a cost has four decimals.
    """
    if isinstance(value, str) or not math.isfinite(value):
        return str(value)
    if name in SHARES:
        return f"{value:.1%}"
    if isinstance(value, int) or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.4f}" if "cost" in name else figure(value)
