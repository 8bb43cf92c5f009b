"""The run directory: all output of a run, written by one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftp.errors import RunError
from ftp.files import clear_parts
from ftp.records.directory import GuardedDirectory
from ftp.records.schemas import EVENTS, MOST_BYTES_OF_EVENTS, Event, StageRecord, checked


class RunDirectory(GuardedDirectory):
    """`runs/<name>/<id>/`: the files of a run, its events, which stages are done, and who writes."""

    @classmethod
    def create(cls, root: Path, name: str) -> RunDirectory:
        """Make a new directory below `root/name`; its id is the time and two random bytes, so ids sort by age."""
        path = root / name / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path.mkdir(parents=True)
        return cls(path)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        return self.path.parent.name

    # --- events

    def emit(self, event: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values}
        self.append_records("events", [line])

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far, without a line that a killed process left unfinished.

        Raises:
            RunError: the file can't be read, or an event in it is damaged; the message names the line.
        """
        text, found = self.read_text("events.jsonl", MOST_BYTES_OF_EVENTS, "replace") or "", []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(event, dict):
                continue
            kind = event.get("event")
            try:
                found.append(checked(EVENTS.get(kind, Event) if isinstance(kind, str) else Event, event))
            except ValueError as error:
                raise RunError(f"{self.path / 'events.jsonl'}:{number}: damaged ({error})") from None
        return found

    # --- stages

    def stages(self) -> dict[str, Any]:
        found: dict[str, Any] | None = self.read_json("stages.json", dict[str, StageRecord])
        return found or {}

    def is_done(self, stage: str, inputs: Mapping[str, str]) -> bool:
        """Return whether a stage is done on these inputs.

        Raises:
            RunError: it is done on other inputs; the message says which ones have changed.
        """
        record = self.stages().get(stage)
        if record is None:
            return False
        before = record.get("inputs", {})
        changed = sorted(k for k in {*inputs, *before} if inputs.get(k) != before.get(k))
        if changed:
            raise RunError(
                f"{self.path}: stage '{stage}' was done on other inputs; changed since: {', '.join(changed)}. "
                "Start a new run with --new."
            )
        return True

    def finish(self, stage: str, inputs: Mapping[str, str], **more: Any) -> None:
        """Record that a stage is done on these inputs, with any further details."""
        stages = self.stages()
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        stages[stage] = {"inputs": dict(inputs), "finished": finished, **more}
        self.write_json("stages.json", stages)

    # --- one writer

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory's lock. The operating system releases it when the process dies, however it dies.

        Raises:
            RunError: another process holds it; the message says which.
        """
        import filelock

        if not self.path.is_dir():
            raise RunError(f"{self.path}: no such directory")
        self.check()
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                me = {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.now().isoformat(timespec="seconds"),
                }
                clear_parts(self.path)
                self.write_json(".writer.json", me)
                try:
                    yield
                finally:
                    (self.path / ".writer.json").unlink(missing_ok=True)
        except filelock.Timeout:
            who = self.read_json(".writer.json", dict[str, Any]) or {}
            raise RunError(
                f"{self.path}: in use by process {who.get('pid', '?')} on {who.get('host', '?')} since "
                f"{who.get('since', '?')}; wait for it, or start another run with --new"
            ) from None


def runs_below(root: Path, name: str = "*") -> list[RunDirectory]:
    """Return the runs below a directory, oldest first."""
    found = [RunDirectory(file.parent) for file in root.glob(f"{name}/*/run.lock.json")]
    return sorted(found, key=lambda run: run.id)
