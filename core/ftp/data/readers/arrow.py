"""Parquet, Arrow and Feather."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ftp.data.readers.rows import BATCH, ReadOptions, Row, twin
from ftp.errors import DataError
from ftp.files import first_line


def parquet(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read a Parquet file in batches."""
    yield from _rows(file, stream, "Parquet")


def arrow(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read an Arrow file or stream (as `save_to_disk` of datasets writes it) or a Feather file in batches."""
    yield from _rows(file, stream, "Arrow")


def _rows(file: Path, stream: IO[bytes], kind: str) -> Iterator[Row]:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise DataError([f"{file}: {kind} files need pyarrow: pip install 'ftp-finetune[train]'"]) from None

    number = 0
    try:
        names, batches = (_parquet_batches if kind == "Parquet" else _arrow_batches)(file, stream)
        if twin(names):
            raise DataError([f"{file}: the column '{twin(names)}' occurs twice"])
        for batch in batches:
            batch.validate(full=True)  # offsets of a damaged file point anywhere, and reading them ends the process
            for at in range(0, batch.num_rows, BATCH):
                for row in _values(batch.slice(at, BATCH), number):
                    number = row.line
                    yield row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError([f"{file}: not a readable {kind} file: {first_line(error)}"]) from None


def _values(batch: Any, before: int) -> Iterator[Row]:
    """Turn a batch into rows; a value that Python has no type for is a problem of its row alone."""
    try:
        yield from (Row(number, values) for number, values in enumerate(batch.to_pylist(), before + 1))
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield Row(before + number + 1, batch.slice(number, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield Row(before + number + 1, None, f"a value that can't be read: {first_line(error)}")


def _parquet_batches(file: Path, stream: IO[bytes]) -> tuple[list[str], Iterable[Any]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(_seekable(stream))
    return table.schema_arrow.names, table.iter_batches(BATCH)


def _arrow_batches(file: Path, stream: IO[bytes]) -> tuple[list[str], Iterable[Any]]:
    import pyarrow as pa
    from pyarrow import feather

    source = _seekable(stream)
    start = source.read(6)
    source.seek(0)
    if start == b"ARROW1":
        opened = pa.ipc.open_file(source)
        return opened.schema.names, (opened.get_batch(number) for number in range(opened.num_record_batches))
    if start[:4] == b"FEA1":
        table = feather.read_table(source)
        return table.schema.names, table.to_batches(BATCH)
    stream_reader = pa.ipc.open_stream(source)
    return stream_reader.schema.names, stream_reader


def _seekable(stream: IO[bytes]) -> Any:
    """Return the stream, or its bytes in memory where it can only be read from front to back."""
    return stream if isinstance(stream, io.BufferedReader) and stream.raw.seekable() else io.BytesIO(stream.read())
