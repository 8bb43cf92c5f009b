"""Files in a directory that a stranger may have made: no link or device is followed, and what is read is checked."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ftp.errors import RunError
from ftp.files import append_line, finite, new_directory, new_file, read_plain_file, write_text
from ftp.records.schemas import MOST_BYTES, checked


class GuardedDirectory:
    """The directory of a run as a place of files, each written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> Path:
        """Return the path of a file or directory of the run, which need not be there.

        Raises:
            RunError: the name leads out of the run, or the place or a directory above it is a link, a pipe or a
                device.
        """
        parts = name.split("/")
        if not all(parts) or any(part in (".", "..") or "\0" in part or "\\" in part for part in parts):
            raise RunError(f"{self.path}: {name!r} can't be the name of a file of a run")
        path = self.path
        for part in parts:
            path = path / part
            _refuse_odd(path, above=path != self.path / name)
        return path

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        """Give the path to write a file to; it takes its name when the block ends well."""
        return new_file(self.place(name))

    def write_text(self, name: str, text: str) -> Path:
        """Write a file aside, sync it, and move it into place."""
        write_text(self.place(name), text)
        return self.path / name

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, _json(value, indent=2) + "\n")

    def append_line(self, name: str, line: str) -> None:
        """Append a line to a file."""
        append_line(self.place(name), line)

    def append_records(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines of JSON to `name.jsonl`."""
        if lines:
            self.append_line(f"{name}.jsonl", "\n".join(_json(line, default=str) for line in lines))

    def read_text(self, name: str, most: int = MOST_BYTES, errors: str = "strict") -> str | None:
        """Return the text of a file, or None when it doesn't exist.

        Args:
            errors: what to do with bytes that aren't UTF-8, as for `bytes.decode`.

        Raises:
            RunError: it has more than `most` bytes, is no plain file or not UTF-8, or can't be read.
        """
        file = self.place(name)
        try:
            return read_plain_file(file, most).decode("utf-8", errors)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise RunError(f"{file}:{line}: damaged: not UTF-8") from None
        except OSError as error:
            raise RunError(f"{file}: can't be read: {error.strerror}") from None

    def read_json(self, name: str, schema: Any = Any, most: int = MOST_BYTES) -> Any:
        """Return the parsed file, or None when it doesn't exist.

        Args:
            schema: a type that pydantic knows, which the file has to be of.

        Raises:
            RunError: it is not whole, of another form, or can't be read.
        """
        text, file = self.read_text(name, most), self.path / name
        if text is None:
            return None
        advice = "damaged; restore it from a copy, or begin a new run with --new"
        try:
            return checked(schema, json.loads(text))
        except json.JSONDecodeError as error:
            raise RunError(f"{file}:{error.lineno}: {advice} ({error.msg})") from None
        except RecursionError:
            raise RunError(f"{file}: {advice} (nested too deep)") from None
        except ValueError as error:
            raise RunError(f"{file}: {advice} ({error})") from None

    def new_directory(self, name: str) -> AbstractContextManager[Path]:
        """Yield an empty directory to fill; it gets its name when the block succeeds."""
        return new_directory(self.place(name))

    def check(self) -> None:
        """Refuse a run in which a link, a pipe or a device lies, before anything is written into it.

        Trackers and evaluations below it keep house for themselves: of those only the directory is looked at.

        Raises:
            RunError: with the path of the first.
        """
        waiting = [self.path]
        while waiting:
            for entry in sorted(waiting.pop().iterdir()):
                _refuse_odd(entry, above=False)
                if entry.is_dir() and entry not in (self.path / "tracking", self.path / "evals"):
                    waiting.append(entry)


def _refuse_odd(path: Path, *, above: bool) -> None:
    """Refuse what is neither a file nor a directory.

    Args:
        above: whether only a directory will do.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be looked at: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISLNK(mode):
        raise RunError(f"{path}: a link; a run is read and written as it is, so put there what it points to")
    if not (stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and not above)):
        raise RunError(f"{path}: neither a plain file nor a directory; take it out of the run")


def _json(value: Any, **options: Any) -> str:
    """JSON as people read it; with escapes where a name is no Unicode, as one on disk may be."""
    text = json.dumps(finite(value), ensure_ascii=False, **options)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(finite(value), **options)
    return text
