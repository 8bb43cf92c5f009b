"""Charts as SVGs that take their colours from the page and need no style of their own."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

INK, TRAIN, VALIDATION = "#010203", "#010204", "#010205"
GOOD, BAD, SOFT = "#010206", "#010207", "#010208"
COLOURS = {
    INK: "currentColor",
    TRAIN: "var(--train)",
    VALIDATION: "var(--validation)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    SOFT: "var(--soft)",
}
"""Placeholder colours that no drawing uses otherwise, and the page's colours that replace them."""
FOREST_REACH = 2.5
"""Standard deviations to either side that a forest plot shows."""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.parse_math": False,  # names come from data: a dollar is a dollar
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def token_histogram(bins: Sequence[Mapping[str, int]]) -> str:
    """Draw how many rows have how many tokens, as an SVG; `bins` have `from`, `to` and `rows`."""
    with drawn("Rows by their number of tokens", (8.4, 2.6)) as (axes, svg):
        names = [f"{bin['from']}-{bin['to']}" for bin in bins]
        bars = axes.bar(names, [bin["rows"] for bin in bins], color=TRAIN)
        axes.bar_label(bars, fmt="{:,.0f}", color=INK, fontsize=9)
        axes.set_xlabel("tokens")
        axes.set_ylabel("rows")
    return "".join(svg)


def row_steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """Draw the rows after each step of the data stage, as an SVG of stacked bars."""
    parts = (("train", TRAIN, 1.0), ("validation", VALIDATION, 1.0), ("evals", INK, 0.45), ("dropped", INK, 0.15))
    with drawn("Rows after each step", (8.4, 0.8 + 0.42 * len(steps))) as (axes, svg):
        names = [f"{number}. {step['after']}" for number, step in enumerate(steps, 1)]
        left = [0] * len(steps)
        for part, colour, alpha in parts:
            counts = [step[part] for step in steps]
            axes.barh(names, counts, left=left, color=colour, alpha=alpha, label=part)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("rows")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return "".join(svg)


def forest(lines: Sequence[tuple[str, str, tuple[float, float, float]]]) -> str:
    """Draw a forest plot: for each line a name, a verdict, and mean, low and high of a difference.

    Right is better. Values beyond FOREST_REACH are arrows at the edge: a loss that falls on every example would flatten
    the rest.
    """
    colours = {"better": GOOD, "worse": BAD}
    with drawn("Difference of tuned and base, by metric, with 95% intervals", (5.6, 0.8 + 0.29 * len(lines))) as (
        axes,
        svg,
    ):
        ends = [abs(end) for _, _, (mean, *interval) in lines for end in (mean, *interval)]
        reach = min(FOREST_REACH, max(0.2, *ends) * 1.06)
        axes.axvline(0, color=INK, linewidth=1)
        for place, (_, verdict, (mean, low, high)) in enumerate(lines):
            colour = colours.get(verdict, SOFT)
            if abs(mean) > reach:
                edge, arrow = (reach * 0.97, ">") if mean > 0 else (-reach * 0.97, "<")
                axes.plot([edge], [place], color=colour, marker=arrow, markersize=8)
                continue
            axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([mean], [place], color=colour, marker="o", markersize=6.5)
        axes.set_yticks(range(len(lines)), [printable(name, 34) for name, _, _ in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel("← worse · standard deviations · better →", fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return "".join(svg)


@contextlib.contextmanager
def drawn(label: str, size: tuple[float, float]) -> Iterator[tuple[Any, list[str]]]:
    """Yield axes to draw on, `size` in inches, and a list that holds the SVG once the block has ended."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("svg")
    svg: list[str] = []
    # The salt keeps the ids of one chart apart from those of the others on the page.
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": label}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's fonts draw it
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes, svg
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg.append(_plain(stream.getvalue(), label))


def printable(name: str, most: int) -> str:
    """Return a name from data as a label: one line without control characters, visibly cut."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _plain(text: str, label: str) -> str:
    """Return the SVG with attributes in place of matplotlib's styles.

    The page's policy allows only its own style sheet.
    """
    root = ElementTree.fromstring(text)
    for name in ("width", "height"):
        del root.attrib[name]
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        for rule in attributes.pop("style", "").split(";"):
            name, _, value = (part.strip() for part in rule.partition(":"))
            if name == "font":  # size and family; the family is the page's
                name, value = "font-size", value.split()[0]
            if name and name != "font-family":
                attributes[name] = value
        element.attrib.clear()
        element.attrib.update({name: COLOURS.get(value, value) for name, value in attributes.items()})
    root.attrib |= {"role": "img", "aria-label": label, "stroke-linejoin": "round", "stroke-linecap": "butt"}
    title = ElementTree.Element("title")
    title.text = label
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")
