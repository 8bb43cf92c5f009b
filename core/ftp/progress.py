"""What a run reports while it works, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Progress:
    """What a run tells while it goes on. The command line shows it; this one is silent."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """A stage begins; the returned function is called with the number of units done since its last call."""
        return lambda units: None

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        """An event was written to events.jsonl."""

    def note(self, text: str) -> None:
        """Something the user should read."""

    directory: Path | None = None
    """Of the run, as soon as `ftp resume` can go on with it."""
