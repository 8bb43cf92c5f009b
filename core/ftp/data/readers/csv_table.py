"""CSV and TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ftp.data.readers.encodings import LOOKED_AT, encoding_of
from ftp.data.readers.rows import ReadOptions, Row, line_separator, twin
from ftp.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
TRIED_ROWS = 1000


def csv_table(file: Path, stream: IO[bytes], options: ReadOptions) -> Iterator[Row]:
    """Read a table whose first row names the columns."""
    csv.field_size_limit(2**31 - 1)
    sample, stream = _looked_at(stream)
    delimiter, encoding = dialect_of(file, sample, options)
    # Bytes that are not of the encoding become lone surrogates here, so that the row they are in can be named.
    with io.TextIOWrapper(stream, encoding, "surrogateescape", newline="") as lines:
        try:
            yield from _rows(file, lines, delimiter, encoding)
        except UnicodeError:  # of UTF-16 and the like, in which a wrong byte shifts all after it
            raise DataError([f"{file}: not {encoding.upper()}; write its `encoding:` into the recipe"]) from None


def dialect_of(file: Path, sample: bytes, options: ReadOptions) -> tuple[str, str]:
    """Return the delimiter and the encoding of a table, as the options say or as its beginning shows.

    Args:
        sample: how the file begins, `LOOKED_AT` bytes or less.
    """
    encoding = options.encoding or encoding_of(file, sample)
    if options.delimiter:
        return options.delimiter, encoding
    if ".tsv" in (suffix.lower() for suffix in file.suffixes):
        return "\t", encoding
    text = sample.decode(encoding, "replace")
    whole = text if len(sample) < LOOKED_AT else text[: text.rfind("\n") + 1]
    return max(DELIMITERS, key=lambda delimiter: _fit(whole, delimiter)), encoding


def _fit(text: str, delimiter: str) -> float:
    """Return the share of the first rows that have as many cells as the header; 0 where that has only one.

    The rule that reading holds a table to. csv.Sniffer, which counts characters, refuses tables of one column.
    """
    width, fit, count = 0, 0, 0
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if cells and not width:
                width = len(cells)
            elif cells:
                fit, count = fit + (len(cells) == width), count + 1
            if count == TRIED_ROWS:
                break
    except csv.Error:  # reading says what is broken, and where
        pass
    return 0 if width < 2 else fit / count if count else 0.5


def dialect_in_words(file: Path, stream: IO[bytes], options: ReadOptions) -> str:
    """Return what was found out of a table that is not separated by commas (or tabs, in .tsv) or not in UTF-8."""
    sample, _ = _looked_at(stream)
    delimiter, encoding = dialect_of(file, sample, options)
    found = []
    if not options.delimiter and delimiter != "," and ".tsv" not in (suffix.lower() for suffix in file.suffixes):
        found.append(f"delimiter {NAMES[delimiter]}")
    if not options.encoding and encoding not in ("utf-8", "utf-8-sig"):
        found.append(f"encoding {encoding}")
    return ", ".join(found)


def _looked_at(stream: IO[bytes]) -> tuple[bytes, IO[bytes]]:
    """Return how a stream begins, and a stream that begins there again."""
    sample = stream.read(LOOKED_AT)
    if not stream.seekable():
        return sample, io.BytesIO(sample + stream.read())
    stream.seek(0)
    return sample, stream


def _rows(file: Path, lines: Iterable[str], delimiter: str, encoding: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # A stray quote swallows the lines after it; the reader can't find the next row by itself.
            raise DataError([f"{file}:{line}: broken CSV: {error}"]) from None
        if not header:
            header = cells
            if twin(header):
                raise DataError([f"{file}:{line}: the column '{twin(header)}' occurs twice"])
        elif cells:
            yield _row(line, header, cells, encoding)


def _row(line: int, header: list[str], cells: list[str], encoding: str) -> Row:
    if len(cells) != len(header):
        count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
        return Row(line, None, f"{count} under {len(header)} columns")
    wrong = next((name for name, cell in zip(header, cells, strict=True) if _has_stray_byte(cell)), None)
    if wrong is not None:
        return Row(line, None, f"not {encoding.removesuffix('-sig').upper()}: column '{wrong}'")
    if separator := next(filter(None, map(line_separator, cells)), ""):
        return Row(line, None, separator)
    return Row(line, dict(zip(header, cells, strict=True)))


def _has_stray_byte(cell: str) -> bool:
    return not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell)
