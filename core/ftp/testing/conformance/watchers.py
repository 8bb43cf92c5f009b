"""What FTP relies on in a watcher."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from typing import Any

from ftp.components import Watcher
from ftp.testing.conformance.common import attempt, fail, pickled
from ftp.types import RollBack, Stop, Warn


def check_watcher(watcher: Watcher) -> None:
    """Check that a watcher answers the same in an uninterrupted run and in a resumed one."""
    plan: dict[str, Any] = {"event": "plan", "steps": 40, "rows": 80, "tokens_per_epoch": 900, "best_by": "loss"}
    before = [_validation(0), *map(_metric, range(1, 11)), _validation(10), {"event": "something new", "value": [1]}]
    after: list[dict[str, Any]] = [*map(_metric, range(11, 31)), _validation(20), _metric(31, loss=math.nan)]
    after += [{"event": "watcher", "by": "other", "asks": "stop", "reason": "enough", "step": 31}]
    after += [{"event": "rollback", "step": 20, "factor": 0.5}, _metric(21, grad_norm=math.inf), _validation(30)]
    after += [{"event": "best", "step": 20, "loss": 1.5}, {"event": "note", "text": "A note."}]
    after += [{"event": "score", "evaluator": "loss", "evals": "heldout", "metric": "nll", "base": 2.0, "tuned": 1.0}]
    after += [{"event": "end"}]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        starts = [{"event": "start", "name": "run", "id": f"run-{n}", "directory": f"{directory}/{n}"} for n in "12"]
        whole, resumed = pickled(watcher), pickled(watcher)
        for event in (starts[0], plan, *before):
            _seen(whole, event)
        answers = [_seen(whole, event) for event in after]
        for event in (starts[1], plan):
            _seen(resumed, event)
        for event in (starts[1], plan, *before):
            attempt(type(watcher), resumed.replay, event)
        _seen(resumed, {"event": "resume", "step": 10})
        if [_seen(resumed, event) for event in after] != answers:
            fail(type(watcher), "answers differently after a replay than in an uninterrupted run.")


def _metric(step: int, **values: float) -> dict[str, Any]:
    usual = {"epoch": step / 20, "loss": 2 - step / 40, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens": 45 * step}
    speed = {"seconds": 2.0 * step, "tokens_per_second": 22.5, "memory_mb": 900.0}
    return {"event": "metric", "step": step, **usual, **speed, **values}


def _validation(step: int) -> dict[str, Any]:
    loss = 2.1 - step / 50
    by_source = {"a.jsonl": loss + 0.1, "b.jsonl": loss - 0.1}
    return {"event": "validation", "step": step, "epoch": step / 20, "loss": loss, "by_source": by_source}


def _seen(watcher: Watcher, event: Mapping[str, Any]) -> Any:
    answer = attempt(type(watcher), watcher.see, event)
    call = f"see({event['event']})"
    if not isinstance(answer, Stop | RollBack | Warn | None):
        fail(type(watcher), f"{call} returned {answer!r}; it has to be ftp.Stop, ftp.RollBack, ftp.Warn or None.")
    if answer is not None and not (isinstance(answer.reason, str) and answer.reason.strip()):
        fail(type(watcher), f"{call} answered without a reason.")
    if isinstance(answer, RollBack) and not 0 < answer.factor <= 1:
        fail(type(watcher), f"{call} asks for {answer.factor} times the rate; it has to be above 0 and at most 1.")
    return answer
