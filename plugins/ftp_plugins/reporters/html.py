"""The report as one self-contained page."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field

import ftp
from ftp.rundir import RunDirectory
from ftp_plugins.reporters.charts import loss_curves


class Html(ftp.Reporter):
    """report.html, one page that needs no network: verdict, curves, base against tuned, both answers, ledger, lock."""

    requires: ClassVar[tuple[str, ...]] = ("jinja2", "matplotlib")

    max_examples: int = Field(default=500, ge=0)
    """Examples shown of each eval set; the page says how many it leaves out."""

    def report(self, run: ftp.FinishedRun) -> Path:
        from markupsafe import Markup

        text = render_page(
            "report.html.j2",
            run=run,
            rows=[row(evaluation, metric) for evaluation in run.evaluations for metric in evaluation.metrics],
            notes=[(e.evals, e.evaluator, note) for e in run.evaluations for note in e.notes],
            run_notes=[event["text"] for event in run.events if event["event"] == "note"],
            curves=Markup(loss_curves(run.events)),
            sets=[(view.name, len(view.examples), self._examples(run, view)) for view in run.views],
            ledger_rows=sum(total["rows"] for total in run.ledger_totals),
            recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True),
            lock=yaml.safe_dump(
                {k: v for k, v in run.lock.items() if k != "recipe"}, sort_keys=False, allow_unicode=True
            ),
        )
        return RunDirectory(run.directory).write_text("report.html", text)

    def _examples(self, run: ftp.FinishedRun, view: ftp.EvalView) -> list[dict[str, Any]]:
        shown = []
        scored = [
            (f"{evaluation.evaluator} {metric.name}", metric)
            for evaluation in run.evaluations
            if evaluation.evals == view.name
            for metric in evaluation.metrics
            if metric.base_scores
        ]
        for index, example in enumerate(view.examples[: self.max_examples]):
            shown.append(
                {
                    "id": example.id,
                    "prompt": example.prompt,
                    "reference": example.reference,
                    "base": _answer(example.reference, view.base_answers, index),
                    "tuned": _answer(example.reference, view.tuned_answers, index),
                    "scores": [(name, m.base_scores[index], m.tuned_scores[index]) for name, m in scored],
                    "worse": any(
                        (m.tuned_scores[index] < m.base_scores[index]) == m.higher_is_better
                        and m.tuned_scores[index] != m.base_scores[index]
                        for _, m in scored
                    ),
                }
            )
        return shown


def render_page(template: str, **values: Any) -> str:
    """Render one of our pages; every value is escaped unless it is marked as safe."""
    import jinja2
    from markupsafe import Markup

    here = files("ftp_plugins.reporters")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["figure"] = figure
    style = Markup((here / "style.css").read_text("utf-8"))
    return environment.from_string((here / template).read_text("utf-8")).render(style=style, **values)


def _answer(reference: str, answers: Any, index: int) -> dict[str, Any] | None:
    """An answer as runs of words that the reference has in this order, and words that it has not."""
    if not answers:
        return None
    answer = answers[index]
    words, wanted = re.findall(r"\S+\s*", answer.text), re.findall(r"\S+\s*", reference)
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in wanted], [w.strip() for w in words], autojunk=False)
    parts = [
        (tag == "equal", "".join(words[start:end])) for tag, _, _, start, end in matcher.get_opcodes() if end > start
    ]
    return {"parts": parts, "stopped": answer.stopped, "tokens": answer.tokens}


def row(evaluation: ftp.Evaluation, metric: ftp.Metric) -> dict[str, Any]:
    """A line of the table of figures."""
    return {
        "evals": evaluation.evals,
        "name": f"{evaluation.evaluator} {metric.name}",
        "n": evaluation.n,
        "base": metric.base,
        "tuned": metric.tuned,
        "difference": metric.difference,
        "better": "higher" if metric.higher_is_better else "lower",
        "verdict": ftp.verdict(metric.difference, metric.higher_is_better) if metric.difference else "",
    }


def figure(value: float) -> str:
    """Three decimals, fewer for large figures."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
