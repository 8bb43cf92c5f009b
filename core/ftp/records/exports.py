"""The exports of a run: where they are, and the record that each has of what it is and how near it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftp.errors import RunError
from ftp.files import read_plain_file
from ftp.records import schemas

RECORD = "export.json"


def read_exports(run: Path) -> list[dict[str, Any]]:
    """Return the records of the exports in a run directory, by name.

    Raises:
        RunError: one of them is damaged.
    """
    return list(_records(run))


def _records(run: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(run.glob(f"exports/*/{RECORD}")):
        if file.parent.suffix == ".part":  # half an export that a kill has left
            continue
        if file.parent.is_symlink() or file.parent.parent.is_symlink():
            raise RunError(f"{file.parent}: a link; a run is read and written as it is, so put there what it points to")
        try:
            record = schemas.checked(schemas.ExportRecord, json.loads(read_plain_file(file, schemas.MOST_BYTES)))
        except OSError as error:
            raise RunError(f"{file}: can't be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise RunError(f"{file}: damaged; export it again ({error})") from None
        yield {**record, "directory": str(file.parent.relative_to(run))}
