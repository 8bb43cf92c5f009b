"""A run in progress: what it is made from, where it is written, and who hears of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ftp.progress import Progress
from ftp.provenance.fingerprints import inputs_of
from ftp.provenance.lock import lock_of
from ftp.recipe.checks import warnings
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory
from ftp.runs.events import EventLog
from ftp.stages.evaluate import Evaluating
from ftp.types import RollBack, Stop
from ftp.yaml_source import dotted


@dataclass(frozen=True)
class Work:
    """A run in progress. Each stage is done once for the same inputs."""

    recipe: Recipe
    file: Path
    """The recipe's file; the ids of rows name files relative to its directory."""
    directory: RunDirectory
    progress: Progress
    changed: Sequence[str] = ()
    """What has changed since the run began."""
    anyway: bool = False
    """Whether it continues though the model is another one than at its beginning."""

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """A digest of each part of what the run is made from.

        Taken from the lock as it was written: what is read again is equal, but an integer may have become a float.
        """
        return inputs_of(lock_of(self.directory))

    @cached_property
    def evaluating(self) -> Evaluating:
        recipe = self.recipe
        return Evaluating(recipe.evaluate, recipe.answers, self.directory, self.progress.stage, self.note, self.emit)

    @cached_property
    def events(self) -> EventLog:
        return EventLog(self.directory, self.recipe.watch or [], self.progress.event)

    def emit(self, event: str, **values: Any) -> Stop | RollBack | None:
        """Write and show an event; return what the watchers ask for."""
        return self.events.emit(event, **values)

    def note(self, text: str) -> None:
        """Write and show a sentence for the user."""
        self.emit("note", text=text)

    def is_done(self, stage: str) -> bool:
        """Return whether a stage has been finished with these inputs."""
        return self.directory.is_done(stage, self.inputs)

    def finish(self, stage: str, **more: Any) -> None:
        """Record that a stage is finished."""
        self.directory.finish(stage, self.inputs, **more)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Put the events of a beginning and an end around the stages."""
        place = {"name": self.directory.name, "id": self.directory.id, "directory": str(self.directory.path)}
        self.emit("start", **place, recipe=str(self.file), inputs=self.inputs)
        if self.changed:
            self.emit("anyway", changes=self.changed)
        for finding in self.recipe.findings:
            self.note(finding)
        for path, what in warnings(self.recipe):
            self.note(f"{dotted(path)}: {what}")
        try:
            yield
        finally:
            self.emit("end")
