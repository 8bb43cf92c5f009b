"""Parquet files of a run read back: nothing of them is believed before it is checked."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftp.errors import DataError

Columns = Mapping[str, str]
"""The type of each column, as Arrow writes it; with a `?` behind it the column may hold nulls."""


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into a DataError that names it."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise ValueError("not a plain file")
        yield
    except FileNotFoundError:
        raise DataError([f"{file}: no such file"]) from None
    except (OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError, NotImplementedError) as error:
        what = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:300]
        raise DataError([f"{file}: damaged; put it back from a copy, or begin a new run with --new ({what})"]) from None


def open_parquet(file: Path, columns: Columns) -> Any:
    """Open a Parquet file whose columns and their types are known, inside `reading(file)`."""
    import pyarrow.parquet as pq

    found = pq.ParquetFile(file)
    rows, fields = found.metadata.num_rows, {field.name: str(field.type) for field in found.schema_arrow}
    for name, wanted in columns.items():
        if fields.get(name) not in (wanted.removesuffix("?"), "null" if rows == 0 else ""):
            raise ValueError(f"column {name} is {fields.get(name, 'missing')}, not {wanted.removesuffix('?')}")
    # Every row has a text of its own, so more rows than bytes are a file that unpacks without end.
    if rows > file.stat().st_size:
        raise ValueError(f"{rows:,} rows in {file.stat().st_size:,} bytes")
    return found


def batches(parquet: Any, columns: Columns, rows: int = 100_000) -> Iterator[dict[str, list[Any]]]:
    """Yield the rows, checked, as lists by column; batch by batch."""
    for batch in parquet.iter_batches(rows, columns=list(columns)):
        batch.validate(full=True)
        for name, wanted in columns.items():
            if not wanted.endswith("?") and batch.column(name).null_count:
                raise ValueError(f"column {name} lacks a value")
        yield {name: batch.column(name).to_pylist() for name in columns}
