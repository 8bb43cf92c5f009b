"""Signals that end a training with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from ftp.components import TrainingJob


class Interruptible(Protocol):
    """An object that records a signal."""

    job: TrainingJob
    signal: int
    """The number of the signal that came; 0 for none."""


class Signals:
    """SIGTERM and Ctrl-C end training after the step in progress; a second one ends it at once."""

    def __init__(self, parts: Interruptible) -> None:
        self.parts = parts
        self.before: Mapping[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: object) -> None:
        """Record the first signal; raise KeyboardInterrupt at the second."""
        if self.parts.signal:
            raise KeyboardInterrupt(number)
        self.parts.signal = number
        with contextlib.suppress(RuntimeError):  # the signal may have come in the middle of another line
            self.parts.job.emit("note", text="Interrupted: saving a checkpoint after this step. Again: end now.")
