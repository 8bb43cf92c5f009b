"""Events of a run on their way to the log, to the terminal and to the watchers; and the watchers' answers back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ftp.components import Watcher
from ftp.runs.directory import RunDirectory
from ftp.types import RollBack, Stop, Warn

ASKS: Mapping[type, str] = {Stop: "stop", RollBack: "roll back", Warn: "nothing"}


class Watching:
    """Writes events to events.jsonl, shows them, and asks the watchers about each.

    Args:
        watchers: as the recipe gives them; they begin anew.
        show: called with the name and the values of every event.
    """

    def __init__(
        self, directory: RunDirectory, watchers: Sequence[Watcher], show: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self.directory, self.show = directory, show
        self.watchers = [watcher.anew() for watcher in watchers]

    def emit(self, event: str, **values: Any) -> Stop | RollBack | None:
        """Write, show and hand on an event. A watcher's answer is an event too; a stop goes before a roll-back.

        What only warns is not returned.
        """
        if event == "resume":
            for earlier in done_until(self.directory.events(), values["step"]):
                for watcher in self.watchers:
                    watcher.replay(earlier)
        self.directory.emit(event, **values)
        self.show(event, values)
        found: list[Stop | RollBack] = []
        answers = [(watcher, watcher.see({"event": event, **values})) for watcher in self.watchers]
        for watcher, answer in answers:
            if answer is not None:
                asks = ASKS[type(answer)]
                decision = {"by": watcher.used_as, "asks": asks, "reason": answer.reason, "step": values.get("step")}
                self.directory.emit("watcher", **decision)
                self.show("watcher", decision)
                for other in self.watchers:
                    other.see({"event": "watcher", **decision})
            if isinstance(answer, Stop | RollBack):
                found.append(answer)
        return min(found, key=lambda answer: not isinstance(answer, Stop), default=None)


def done_until(events: Iterable[Mapping[str, Any]], step: float = float("inf")) -> list[Mapping[str, Any]]:
    """The events that still hold: without those of steps that were done again after a resume or a roll-back."""
    kept: list[Mapping[str, Any]] = []
    for event in events:
        if event["event"] in ("resume", "rollback"):
            kept = [earlier for earlier in kept if earlier.get("step") is None or earlier["step"] <= event["step"]]
        kept.append(event)
    return [event for event in kept if event.get("step") is None or event["step"] <= step]
