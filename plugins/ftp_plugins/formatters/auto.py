"""The formatter that detects which of the others fits the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ftp
from ftp_plugins.formatters.formats import FORMATS


class Auto(ftp.Formatter):
    """Tries every installed format with its default columns on the first 200 rows, and uses the one that fits all.

    It refuses when two formats fit, when none fits every row, and for data sets on the hub. `ftp check` prints its
    choice, and the run's recipe records it, so that a run never changes its format.
    """

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        raise ftp.RowError("", "`auto` chooses a format when a recipe is read, and formats no row by itself")

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> tuple[ftp.Formatter, str]:
        if not rows:
            raise ftp.DataError(["there is no row to detect the format from; name the format"])
        formats = {formatter.used_as: formatter for formatter in self.others}
        if not formats:  # no recipe has made this one
            formats = {name: cls() for name, cls in FORMATS.items()}
        faults = {name: _faults(formatter, rows) for name, formatter in formats.items()}
        fits = {name: len(rows) - len(found) for name, found in faults.items()}
        of = f"of the first {len(rows)} rows" if len(rows) > 1 else "of 1 row"
        counts = ", ".join(f"{name} {n}" for name, n in fits.items() if n)
        fitting = [name for name, n in fits.items() if n == len(rows)]
        if len(fitting) == 1:
            chosen = formats[fitting[0]]
            return chosen, f"{fitting[0]}: {len(rows)} {of} fit; {_columns(chosen, rows)}"
        if fitting:
            blocks = " or ".join(f"`{{use: {name}}}`" for name in fitting)
            raise ftp.DataError([f"more than one format fits; write {blocks} (fit {of}: {counts})"])
        if not counts:
            columns = ", ".join(_names(rows)) or "none"
            raise ftp.DataError([f"no format fits any {of}; name one and its columns; the rows have: {columns}"])
        best = max(fits, key=fits.__getitem__)
        number, why = faults[best][0]
        raise ftp.DataError(
            [f"no format fits all rows; {best} fits best, but not row {number}: {why} (fit {of}: {counts})"]
        )


def _faults(formatter: ftp.Formatter, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return the rows that a formatter can't use, by number from 1, and the reasons."""
    found = []
    for number, row in enumerate(rows, 1):
        try:
            formatter.format(row)
        except ftp.RowError as error:
            found.append((number, str(error)))
        except Exception as error:  # a plugin's own code may raise anything for rows that aren't its own
            found.append((number, f"{type(error).__name__}: {error}"))
    return found


def _columns(formatter: ftp.Formatter, rows: Sequence[Mapping[str, Any]]) -> str:
    names = _names(rows)
    read = [column for column in formatter.model_dump().values() if column in names]
    unread = [name for name in names if name not in read]
    return f"columns {', '.join(read)}" + (f"; not read: {', '.join(unread)}" if unread else "")


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for row in rows for name in row))
