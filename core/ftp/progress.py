"""What a run reports while it works, for a user interface to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Progress:
    """Receives the progress of a run. This one ignores it; the command line shows it."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """Begin a stage; return a function to call with the number of units done since the last call."""
        return lambda units: None

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        """Receive an event that was written to events.jsonl."""

    def note(self, text: str) -> None:
        """Receive a message for the user."""

    directory: Path | None = None
    """The run directory, as soon as `ftp resume` can resume the run."""
