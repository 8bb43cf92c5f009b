"""Events of a run: written to the log, shown in the terminal, passed to the watchers; and the watchers' answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ftp.components import Watcher
from ftp.errors import ComponentError
from ftp.guard import call, described
from ftp.runs.directory import RunDirectory
from ftp.types import RollBack, Stop, Warn

ASKS: Mapping[type, str] = {Stop: "stop", RollBack: "roll back", Warn: "nothing"}


class EventLog:
    """Writes events to events.jsonl, shows them, and passes each to the watchers.

    Args:
        watchers: as given in the recipe; each starts with fresh state.
        show: called with the name and the values of every event.
    """

    def __init__(
        self, directory: RunDirectory, watchers: Sequence[Watcher], show: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self.directory, self.show = directory, show
        self.watchers = [watcher.anew() for watcher in watchers]

    def emit(self, event: str, **values: Any) -> Stop | RollBack | None:
        """Write an event, show it and pass it to the watchers; return their decision.

        A watcher's answer is an event too. A stop takes precedence over a roll-back; a warning is not returned.
        """
        if event == "resume":
            for earlier in done_until(self.directory.events(), values["step"]):
                for watcher in self.watchers:
                    call(object, watcher.replay, earlier)
        self.directory.emit(event, **values)
        self.show(event, values)
        found: list[Stop | RollBack] = []
        answers = [(watcher, asked(watcher, {"event": event, **values})) for watcher in self.watchers]
        for watcher, answer in answers:
            if answer is not None:
                asks = ASKS[type(answer)]
                decision = {"by": watcher.used_as, "asks": asks, "reason": answer.reason, "step": values.get("step")}
                self.directory.emit("watcher", **decision)
                self.show("watcher", decision)
                for other in self.watchers:
                    asked(other, {"event": "watcher", **decision})
            if isinstance(answer, Stop | RollBack):
                found.append(answer)
        return min(found, key=lambda answer: not isinstance(answer, Stop), default=None)


def asked(watcher: Watcher, event: Mapping[str, Any]) -> Stop | RollBack | Warn | None:
    """Return what a watcher answers to an event.

    Raises:
        ComponentError: it failed, or answered with something else or without a reason.
    """
    answer = call(Stop | RollBack | Warn | None, watcher.see, event)
    if answer is not None and not (isinstance(answer.reason, str) and answer.reason.strip()):
        raise ComponentError(f"{described(watcher)}: see answered {event['event']} without a reason")
    return answer


def done_until(events: Iterable[Mapping[str, Any]], step: float = float("inf")) -> list[Mapping[str, Any]]:
    """Return the events that are still valid, without those of steps that a resume or a roll-back has repeated."""
    kept: list[Mapping[str, Any]] = []
    for event in reversed(list(events)):  # from the end, so that each event is looked at once
        if event.get("step") is None or event["step"] <= step:
            kept.append(event)
        if event["event"] in ("resume", "rollback"):
            step = min(step, event["step"])
    return kept[::-1]
