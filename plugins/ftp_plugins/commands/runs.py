"""`ftp runs`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import click

from ftp.cli.echo import echo
from ftp.cli.options import JSON, RUNS, for_writing, write_output

if TYPE_CHECKING:
    from ftp.runs.directory import RunDirectory

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 16px 60px; font: 15px/1.5 system-ui, sans-serif;
  color: light-dark(#1c2430, #e6eaf0); background: light-dark(#f6f7f9, #11151b); }
h1 { font-size: 24px; } a { color: light-dark(#1d4ed8, #8fb4ff); } div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 16px 7px 0; vertical-align: top;
  border-bottom: 1px solid light-dark(#d9dee6, #323b48); }
button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
[aria-sort=ascending] button::after { content: " ↑"; } [aria-sort=descending] button::after { content: " ↓"; }
:focus-visible { outline: 2px solid light-dark(#1d4ed8, #8fb4ff); outline-offset: 2px; }
.better { color: light-dark(#12703a, #5fd08b); } .worse { color: light-dark(#b42318, #ff8a80); }
td:nth-child(2), td:nth-child(3) { white-space: nowrap; }
small { display: block; color: light-dark(#566171, #9fabba); }
"""
SCRIPT = """
"use strict";
const rows = document.querySelector("tbody");
const headers = [...document.querySelectorAll("th")];
headers.forEach((header, column) => {
  header.querySelector("button").addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const text = (row) => row.cells[column].textContent;
    const sorted = [...rows.rows].sort((a, b) => text(a).localeCompare(text(b), undefined, { numeric: true }));
    rows.append(...(up ? sorted : sorted.reverse()));
  });
});
"""
COLUMNS = ("Name", "Run", "State", "Verdict", "Scores, base → tuned")


@click.command("runs")
@RUNS
@JSON
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=for_writing,
    help="Write a page that links the reports.",
)
def command(root: Path, as_json: bool, page: Path | None) -> None:
    """List the runs, newest first, with their progress, scores and verdicts."""
    import json
    import sys

    from rich.table import Table

    from ftp.cli.console import Console
    from ftp.errors import FtpError
    from ftp.runs.directory import runs_below

    records = []
    for run in reversed(runs_below(root)):
        try:
            records.append(_record(run))
        except (FtpError, OSError) as error:  # one that is broken hides no other
            echo(f"{run.path} is left out: {error}", err=True)
    if page is not None:
        write_output(page, _page(records, page.absolute().parent))
        echo(page)
        return
    if as_json:
        echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    if not records:
        echo(f"no run below {root}; `ftp run recipe.yaml` makes one")
        return
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for record in records:
        table.add_row(record["name"], record["id"], record["state"], record["verdict"], "\n".join(_lines(record)))
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False)


def _record(run: RunDirectory) -> dict[str, Any]:
    from ftp.results import evaluations_of
    from ftp.stats.verdicts import verdict_in_words
    from ftp_plugins.reporters.tables import one_of_each_family, rows_of

    stages = run.stages()
    evaluations = evaluations_of(run) or ()
    scores = {
        f"{evaluation.evals}: {evaluation.evaluator} {metric.name}": {
            "base": metric.base,
            "tuned": metric.tuned,
            "verdict": verdict_in_words(metric) if metric.difference else "",
        }
        for evaluation in evaluations
        for metric in evaluation.metrics[:1]
    }
    counted = Counter(row["verdict"] for row in one_of_each_family([r for r in rows_of(evaluations) if r["verdict"]]))
    return {
        "name": run.name,
        "id": run.id,
        "state": "finished" if "report" in stages else f"after {list(stages)[-1]}" if stages else "begun",
        "verdict": ", ".join(f"{counted[word]} {word}" for word in ("better", "worse", "no evidence") if counted[word]),
        "scores": scores,
        "path": str(run.path),
    }


def _lines(record: dict[str, Any]) -> list[str]:
    return [f"{name} {s['base']:.3f} → {s['tuned']:.3f}" for name, s in record["scores"].items()]


def _page(records: Sequence[dict[str, Any]], place: Path) -> str:
    """Render the runs as a page with links relative to `place`. ElementTree escapes all text; only our script runs."""
    new = ElementTree.SubElement
    html = ElementTree.Element("html", lang="en")
    head, body = new(html, "head"), new(html, "body")
    new(head, "meta", charset="utf-8")
    new(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    own = f"style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'"
    policy = f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"
    new(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    new(head, "title").text = "Runs · FTP"
    new(head, "style").text = STYLE
    new(body, "h1").text = "Runs, newest first"
    table = new(new(body, "div"), "table")
    header = new(new(table, "thead"), "tr")
    for title in COLUMNS:
        new(new(header, "th", scope="col"), "button", type="button").text = title
    rows = new(table, "tbody")
    for record in records:
        row = new(rows, "tr")
        report = Path(record["path"]) / "report.html"
        cell = new(row, "td")
        if report.is_file():
            cell = new(cell, "a", href=_link(report, place))
        cell.text = record["name"]
        new(row, "td").text = record["id"]
        new(row, "td").text = record["state"]
        new(row, "td").text = record["verdict"]
        scores = new(row, "td")
        for line, score in zip(_lines(record), record["scores"].values(), strict=True):
            small = new(scores, "small")
            small.text = f"{line} "
            found = score["verdict"].partition(" (")[0]
            new(small, "span", {"class": found.replace(" ", "-")}).text = found
    new(body, "script").text = SCRIPT
    return "<!doctype html>\n" + ElementTree.tostring(html, encoding="unicode", method="html")


def _link(report: Path, place: Path) -> str:
    """Return a relative link, or one with the whole path if they share no drive."""
    from urllib.parse import quote

    try:
        return quote(Path(os.path.relpath(report.absolute(), place)).as_posix())
    except ValueError:
        return report.absolute().as_uri()


def _hash(text: str) -> str:
    """Return the hash of an inline block as a content security policy names it."""
    import base64
    import hashlib

    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
