"""The report as one self-contained page."""

from __future__ import annotations

import base64
import difflib
import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field

import ftp
from ftp.files import first_few
from ftp.runs.directory import RunDirectory
from ftp_plugins.reporters import contestants, curves, judge_panel, run_costs, tables
from ftp_plugins.reporters.charts import forest, printable
from ftp_plugins.reporters.export_tables import parity_row
from ftp_plugins.reporters.tables import figure, rows_of, signed, standardised

PAGE_BYTES = 2_980_000
"""The page stays under 3 MB; examples beyond this are left out, and the page says how many."""
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]\s*|[^\s\u3040-\u30ff\u3400-\u9fff]+\s*")
"""A word with the white space after it; Chinese and Japanese have none, so each of their characters is one."""
MOST_NOTES = 200
"""Notes of a run that the page shows; it says how many it leaves out."""
LONGEST = 8000
"""Maximum number of characters of a text on the page; a cut is marked."""


class Html(ftp.Reporter):
    """report.html, a page that needs no network: verdict, curves, figures, judge, answers, ledger, cost, lock."""

    requires: ClassVar[tuple[str, ...]] = ("jinja2", "matplotlib", "pyarrow")

    max_examples: int = Field(default=500, ge=0)
    """Examples shown for each eval set; the page says how many it leaves out."""

    def report(self, run: ftp.FinishedRun) -> Path:
        from markupsafe import Markup

        general = [e for e in run.evaluations if tables.is_general(run, e)]
        special = [e for e in run.evaluations if not tables.is_general(run, e)]
        rows = rows_of(special)
        word, sentence = tables.headline(rows)
        notes = [event["text"] for event in run.events if event["event"] == "note"]
        values: dict[str, Any] = {
            "run": run,
            "lineage": tables.lineage_of(run),
            "rows": rows,
            "others": _others(run),
            "general": rows_of(general),
            "general_headline": tables.headline(rows_of(general)),
            "word": word,
            "sentence": sentence,
            "first": tables.first_figure(rows),
            "adjustment": tables.adjustment(rows),
            "notes": [(e.evals, e.evaluator, note) for e in special for note in e.notes],
            "general_notes": [(e.evals, e.evaluator, note) for e in general for note in e.notes],
            "run_notes": first_few(list(dict.fromkeys(notes)), MOST_NOTES),
            "curves": [(title, Markup(svg)) for title, svg in curves.curves(run.events)],
            "measures": tables.validation_measures(run),
            "happenings": curves.happenings(run.events),
            "forest": Markup(_forest(rows)),
            "general_forest": Markup(_forest(rows_of(general))),
            "panels": [(e.evals, e.evaluator, judge_panel.panel(e)) for e in run.evaluations if e.panel],
            "leaks": tables.subsets(run.evaluations),
            "steps": tables.ledger_steps(run),
            "ledger_rows": sum(total["rows"] for total in run.ledger_totals),
            "exports": [parity_row(record) for record in run.exports],
            "costs": run_costs.costs(run),
            "recipe": _yaml(run.recipe),
            "lock": _yaml({key: value for key, value in run.lock.items() if key != "recipe"}),
        }
        room = PAGE_BYTES - len(render_page("report.html.j2", sets=[], **values).encode())
        sets = []
        # The recipe's own eval sets share the room evenly; those that evaluators brought come last and get the rest.
        sharing = max(1, sum(view.name in run.recipe["data"].get("evals", {}) for view in run.views))
        for place, view in enumerate(run.views):
            metrics = _scored(run, view)
            shown, used = self._examples(view, metrics, place, room // max(1, sharing - place))
            room -= used
            sets.append({"name": view.name, "total": len(view.examples), "metrics": list(metrics), "examples": shown})
        return RunDirectory(run.directory).write_text("report.html", render_page("report.html.j2", sets=sets, **values))

    def _examples(
        self, view: ftp.EvalView, metrics: dict[str, ftp.Metric], place: int, room: int
    ) -> tuple[list[Any], int]:
        """Return as many examples as HTML as there is room for, and their size in bytes."""
        from markupsafe import Markup

        template, used = _environment().get_template("example.html.j2"), 0
        shown: list[Markup] = []
        for index in range(min(len(view.examples), self.max_examples)):
            text = template.render(example=_example(view, metrics, index), set=place)
            used += (size := len(text.encode()))
            if used > room:
                return shown, used - size
            shown.append(Markup(text))
        return shown, used


def render_page(template: str, **values: Any) -> str:
    """Render one of our pages; every value is escaped unless it is marked as safe.

    The page's policy allows our style sheet and our script, by their hashes, and nothing else.
    """
    from markupsafe import Markup

    here = files("ftp_plugins.reporters")
    own = {name: (here / file).read_text("utf-8") for name, file in (("style", "style.css"), ("script", "report.js"))}
    hashes = {f"{name}_hash": _hash(text) for name, text in own.items()}
    safe = {name: Markup(text) for name, text in own.items()}
    return str(_environment().get_template(template).render(**safe, **hashes, **values))


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ftp_plugins", "reporters"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "signed": signed, "score": tables.score, "amount": contestants.amount}
    return environment


def _hash(text: str) -> str:
    """Return the hash of an inline block as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _others(run: ftp.FinishedRun) -> dict[str, Any]:
    from markupsafe import Markup

    found = contestants.contestants(run)
    return {**found, "chart": Markup(found["chart"])} if found else found


def _forest(rows: Sequence[dict[str, Any]]) -> str:
    several = len({r["evals"] for r in rows}) > 1
    names = [f"{r['name']} · {r['evals']}" if several else r["name"] for r in rows]
    lines = [(name, r["verdict"], place) for name, r in zip(names, rows, strict=True) if (place := standardised(r))]
    return forest(lines) if lines else ""


def _scored(run: ftp.FinishedRun, view: ftp.EvalView) -> dict[str, ftp.Metric]:
    """Return the metrics that have a score for each example of an eval set."""
    return {
        f"{evaluation.evaluator} {metric.name}": metric
        for evaluation in run.evaluations
        if evaluation.evals == view.name
        for metric in evaluation.metrics
        if metric.base_scores and len(metric.base_scores) == len(view.examples)
    }


def _example(view: ftp.EvalView, metrics: dict[str, ftp.Metric], index: int) -> dict[str, Any]:
    example = view.examples[index]
    scores = []
    for name, metric in metrics.items():
        base, tuned = metric.base_scores[index], metric.tuned_scores[index]
        if not (math.isfinite(base) and math.isfinite(tuned)):
            found = "unscored"
        else:
            found = "same" if base == tuned else "better" if (tuned > base) == metric.higher_is_better else "worse"
        reasons = [
            r[index] if len(r) == len(view.examples) else "" for r in (metric.base_reasons, metric.tuned_reasons)
        ]
        if reasons[0] == reasons[1]:
            reasons = reasons[:1]
        scores.append(
            {"name": name, "base": base, "tuned": tuned, "found": found, "reasons": [_cut(r) for r in reasons]}
        )
    return {
        "id": example.id,
        "title": printable(
            next((m.content for m in reversed(example.prompt) if m.role == "user"), example.reference), 84
        ),
        "prompt": [(message.role, _cut(message.content), message.tool_calls) for message in example.prompt],
        "reference": _cut(example.reference),
        "base": answer_parts(example.reference, view.base_answers, index),
        "tuned": answer_parts(example.reference, view.tuned_answers, index),
        "scores": scores,
        # Which metrics, by their place: the page filters by them.
        **{
            found: "".join(f" {place}" for place, score in enumerate(scores) if score["found"] == found)
            for found in ("worse", "better", "unscored")
        },
    }


def _cut(text: str, longest: int = LONGEST) -> str:
    """Return a text, visibly cut if it is too long for the page."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def answer_parts(reference: str, answers: Any, index: int) -> dict[str, Any] | None:
    """Split an answer into runs of words that the reference has in the same order, and the other words.

    A single word that the reference has more than once doesn't count when its neighbours differ: a shared `the` means
    nothing.
    """
    if not answers:
        return None
    answer = answers[index]
    words, wanted = WORD.findall(_cut(answer.text)), [word.strip() for word in WORD.findall(reference)]
    counts = Counter(wanted)
    # Long texts are compared without their commonest words, or the time would grow with the square of the length.
    matcher = difflib.SequenceMatcher(None, wanted, [w.strip() for w in words], autojunk=len(wanted) > 600)
    parts: list[tuple[bool, str]] = []
    for tag, _, _, start, end in matcher.get_opcodes():
        if end == start:
            continue
        same = tag == "equal" and (end - start > 1 or counts[words[start].strip()] == 1)
        if parts and parts[-1][0] == same:
            parts[-1] = (same, parts[-1][1] + "".join(words[start:end]))
        else:
            parts.append((same, "".join(words[start:end])))
    return {"parts": parts, "stopped": answer.stopped, "tokens": answer.tokens}
