"""The run directory: all output of a run. Files are written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftp.errors import RunError
from ftp.files import append_line, clear_parts, finite, new_directory, write_text


class RunDirectory:
    """`runs/<name>/<id>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

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

    # --- files

    def write_text(self, name: str, text: str) -> Path:
        """Write a file aside, sync it, and move it into place."""
        write_text(self.path / name, text)
        return self.path / name

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Return the parsed file, or None when it doesn't exist.

        Raises:
            RunError: it is not whole, or can't be read.
        """
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except json.JSONDecodeError as error:
            what = "damaged; restore it from a copy, or begin a new run with --new"
            raise RunError(f"{file}:{error.lineno}: {what} ({error.msg})") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{file}: can't be read: {error}") from None

    def new_directory(self, name: str) -> AbstractContextManager[Path]:
        """Yield an empty directory to fill; it gets its name when the block succeeds."""
        return new_directory(self.path / name)

    # --- events

    def emit(self, event: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **finite(values)}
        append_line(self.path / "events.jsonl", json.dumps(line, ensure_ascii=False, default=str))

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far, without a last line that a killed process left unfinished."""
        file = self.path / "events.jsonl"
        found = []
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict):
                    found.append(event)
        return found

    # --- stages

    def stages(self) -> dict[str, Any]:
        return self.read_json("stages.json") or {}

    def is_done(self, stage: str, inputs: Mapping[str, str]) -> bool:
        """Return whether a stage is done on these inputs.

        Raises:
            RunError: it is done on other inputs; the message says which ones have changed.
        """
        record = self.stages().get(stage)
        if record is None:
            return False
        changed = sorted(k for k in {*inputs, *record["inputs"]} if inputs.get(k) != record["inputs"].get(k))
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

        holder = self.path / ".writer.json"
        try:
            with filelock.FileLock(self.path / ".lock", timeout=0):
                me = {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.now().isoformat(timespec="seconds"),
                }
                holder.write_text(json.dumps(me), encoding="utf-8")
                clear_parts(self.path)
                try:
                    yield
                finally:
                    holder.unlink(missing_ok=True)
        except filelock.Timeout:
            who = self.read_json(".writer.json") or {}
            raise RunError(
                f"{self.path}: in use by process {who.get('pid', '?')} on {who.get('host', '?')} since "
                f"{who.get('since', '?')}; wait for it, or start another run with --new"
            ) from None


def runs_below(root: Path, name: str = "*") -> list[RunDirectory]:
    """Return the runs below a directory, oldest first."""
    found = [RunDirectory(file.parent) for file in root.glob(f"{name}/*/run.lock.json")]
    return sorted(found, key=lambda run: run.id)
