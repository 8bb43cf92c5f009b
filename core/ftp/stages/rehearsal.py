"""Watchers, evaluators and reporters tried before training, so that their bugs don't show hours later."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftp.components import Reporter, Watcher
from ftp.data.ledger import Ledger
from ftp.guard import call
from ftp.results import answers_file, finished
from ftp.runs.directory import RunDirectory
from ftp.runs.events import asked
from ftp.types import Evaluation, FinishedRun, TrainResult

STEPS = 40
"""Of the training that never was."""


# --- watchers ---------------------------------------------------------------------------------------------------------


def rehearse_watchers(watchers: Sequence[Watcher]) -> None:
    """Have copies of the watchers see the events of a short training that never was; their answers are dropped.

    One that defines `replay` has effects outside of itself, and gets the events in that way.

    Raises:
        ComponentError: a watcher failed, or answered what it may not.
    """
    for watcher in watchers:
        copy = watcher.anew()
        with tempfile.TemporaryDirectory(prefix="ftp-") as directory:
            for event in (start_event(directory), *events_before(), *events_after()):
                if type(watcher).replay is Watcher.replay:
                    asked(copy, event)
                else:
                    call(object, copy.replay, event)


def start_event(directory: str, id: str = "run-1") -> dict[str, Any]:
    """Return the first event of a run."""
    return {"event": "start", "name": "run", "id": id, "directory": directory}


def events_before() -> list[dict[str, Any]]:
    """Return the events of the first ten steps of a training, with one that no watcher knows."""
    plan = {"event": "plan", "steps": STEPS, "rows": 80, "tokens_per_epoch": 900, "best_by": "loss"}
    return [plan, validation(0), *map(metric, range(1, 11)), validation(10), {"event": "something new", "value": [1]}]


def events_after() -> list[dict[str, Any]]:
    """Return the events of the steps after those, with all that may happen to a training."""
    events = [*map(metric, range(11, 31)), validation(20), metric(31, loss=math.nan)]
    events += [{"event": "watcher", "by": "other", "asks": "stop", "reason": "enough", "step": 31}]
    events += [{"event": "rollback", "step": 20, "factor": 0.5}, metric(21, grad_norm=math.inf), validation(30)]
    events += [{"event": "best", "step": 20, "loss": 1.5}, {"event": "note", "text": "A note."}]
    score = {"evaluator": "loss", "evals": "heldout", "metric": "nll", "base": 2.0, "tuned": 1.0}
    return [*events, {"event": "score", **score}, {"event": "end"}]


def metric(step: int, **values: float) -> dict[str, Any]:
    """Return the event of an optimizer step."""
    usual = {"epoch": step / 20, "loss": 2 - step / 40, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens": 45 * step}
    speed = {"seconds": 2.0 * step, "tokens_per_second": 22.5, "memory_mb": 900.0}
    return {"event": "metric", "step": step, **usual, **speed, **values}


def validation(step: int) -> dict[str, Any]:
    """Return the event of a validation."""
    loss = 2.1 - step / 50
    by_source = {"a.jsonl": loss + 0.1, "b.jsonl": loss - 0.1}
    return {"event": "validation", "step": step, "epoch": step / 20, "loss": loss, "by_source": by_source}


# --- reporters --------------------------------------------------------------------------------------------------------


def rehearse_reporters(
    reporters: Sequence[Reporter], directory: RunDirectory, evaluations: Sequence[Evaluation]
) -> Iterator[tuple[Reporter, str]]:
    """Have the reporters report what there is before training, in a temporary directory; yield what fails and why.

    The base model stands for the tuned one, and the training is one that never was. What fails here need not fail on a
    real run, and a report can be written again at any time, so it is said and ends nothing.
    """
    with tempfile.TemporaryDirectory(prefix="ftp-", ignore_cleanup_errors=True) as place:
        run = rehearsed_run(directory, Path(place), evaluations)
        for reporter in reporters:
            try:
                call(Path, reporter.report, run)
            except Exception as error:  # an FtpError of its own, too
                yield reporter, str(error)


def rehearsed_run(directory: RunDirectory, place: Path, evaluations: Sequence[Evaluation]) -> FinishedRun:
    """Return the run so far as if it were finished, with a directory of its own below `place`."""
    copy = RunDirectory(place / directory.name / directory.id)
    copy.path.mkdir(parents=True)
    for name in ("recipe.yaml", "resolved.yaml", "run.lock.json", "events.jsonl"):
        shutil.copy(directory.path / name, copy.path / name)
    (copy.path / "data").mkdir()
    for file in (*(directory.path / "data").glob("eval-*.arrow"), directory.path / "data" / "validation.arrow"):
        shutil.copy(file, copy.path / "data")  # no link: nothing of a run is read through one
    Ledger.read(directory.path / "data" / "ledger.parquet").write(copy.path / "ledger.parquet")
    (copy.path / "answers").mkdir()
    for file in (directory.path / "answers").glob("base-*.parquet"):
        for who in ("base", "tuned"):
            shutil.copy(file, answers_file(copy, who, file.stem.removeprefix("base-")))
    for event in (*events_before(), *events_after()):
        copy.emit(event["event"], **{key: value for key, value in event.items() if key != "event"})
    figures: Mapping[str, Any] = {"steps": STEPS, "best_step": 20, "trained_tokens": 1800, "seconds": 80.0}
    parameters = {"trainable_parameters": 1000, "total_parameters": 100_000}
    assert {*figures, *parameters, "model"} == {field.name for field in dataclasses.fields(TrainResult)}
    copy.write_json("training.json", {**figures, **parameters})
    copy.write_json("evaluation.json", [dataclasses.asdict(evaluation) for evaluation in evaluations])
    return finished(copy)
