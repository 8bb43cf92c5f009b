"""What FTP relies on in a watcher."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from ftp.components import Watcher
from ftp.stages.rehearsal import events_after, events_before, start_event
from ftp.testing.conformance.common import attempt, fail, pickled
from ftp.types import RollBack, Stop, Warn


def check_watcher(watcher: Watcher) -> None:
    """Check that a watcher answers the same in an uninterrupted run and in a resumed one."""
    plan, *before = events_before()
    after = events_after()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        starts = [start_event(f"{directory}/{n}", f"run-{n}") for n in "12"]
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
