"""A package written against the public names of 0.1 loads and runs as it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftp import pipeline, plugins, recipe
from ftp.testing import Install, WriteRecipe

SOURCE = '''
"""Every kind of component, as the documentation of 0.1 shows them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

import ftp


class Ticket(ftp.Formatter):
    """Tickets as questions."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        if "question" not in row:
            raise ftp.RowError("question", "missing column")
        return ftp.Example((ftp.Message("user", row["question"]), ftp.Message("assistant", row["answer"])))


class Short(ftp.Curator):
    """Drops long questions."""

    most: int = 200

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        kept = []
        for at, example in enumerate(corpus.train):
            if len(example.messages[0].content) > self.most:
                ledger.drop(example.id, by=self.used_as, reason="long")
            else:
                kept.append(at)
        return ftp.Corpus(corpus.train.take(kept), corpus.validation, corpus.evals, corpus.count_tokens)


class Patience(ftp.Watcher):
    """Stops after so many validations."""

    validations: int = 100
    _seen: int = PrivateAttr(default=0)

    def see(self, event):
        self._seen += event["event"] == "validation"
        return ftp.Stop("enough") if self._seen >= self.validations else None


class Norm(ftp.Evaluator):
    """Measures the weights."""

    reads_answers = False

    def measure(self, model: ftp.LoadedModel) -> Mapping[str, Any]:
        return {"weights": float(sum(p.numel() for p in model.model.parameters()))}

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        base, tuned = view.base_measured["weights"], view.tuned_measured["weights"]
        return ftp.Evaluation((ftp.Metric("weights", base, tuned, None),))


class Own(ftp.Evaluator):
    """Brings an eval set."""

    def own_evals(self):
        turns = (ftp.Message("user", "Which colour?"), ftp.Message("assistant", "Blue."))
        return {"colours": [ftp.Example(turns, source="colours")] * 3}

    def score(self, example: ftp.Example, answer: str) -> ftp.Score:
        return ftp.Score(float(len(answer)), "letters")


class Lines(ftp.Reporter):
    """A report of lines."""

    def report(self, run: ftp.FinishedRun) -> Path:
        file = run.directory / "lines.txt"
        file.write_text("\\n".join(f"{e.evaluator} {m.name}" for e in run.evaluations for m in e.metrics))
        return file


@ftp.hookimpl
def ftp_formatters():
    return {"ticket": Ticket}


@ftp.hookimpl
def ftp_curators():
    return {"short": Short}


@ftp.hookimpl
def ftp_watchers():
    return {"patience": Patience}


@ftp.hookimpl
def ftp_evaluators():
    return {"norm": Norm, "own": Own}


@ftp.hookimpl
def ftp_reporters():
    return {"lines": Lines}
'''


@pytest.fixture
def file(ftp_install: Install, ftp_recipe: WriteRecipe, ftp_tiny_model: Path, tmp_path: Path) -> Path:
    ftp_install("old-house", SOURCE)
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(12)]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "tickets.jsonl", "format": {"use": "ticket"}}
    return ftp_recipe(
        model={"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"},
        data={"train": [source], "evals": None, "curate": [{"use": "short"}]},
        train={"epochs": 1},
        watch=[{"use": "patience"}],
        answers={"max_new_tokens": 4},
        evaluate=[{"use": "norm"}, {"use": "own"}],
        report=[{"use": "lines"}],
    )


def test_it_loads_and_runs_unchanged(file: Path, tmp_path: Path) -> None:
    found = plugins.load()
    assert not found.broken()
    checked = recipe.read(file, found)
    done = pipeline.run(checked, found, file, tmp_path / "runs", pipeline.Progress())
    assert (done.directory / "lines.txt").read_text().splitlines() == ["norm weights", "own score"]
    assert [evaluation.evals for evaluation in done.evaluations] == ["norm", "colours"]
