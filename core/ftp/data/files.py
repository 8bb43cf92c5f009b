"""Files to rows: JSON Lines, JSON, CSV, TSV and Parquet, each row with its line or with what is wrong there."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ftp.errors import DataError
from ftp.files import first_line

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source, or the problem with it."""

    line: int
    """The line it starts on; in Parquet files and on the hub the row's number. From 1."""
    values: Mapping[str, Any] | None
    problem: str = ""


def files_of(path: str) -> list[Path]:
    """Return the data files behind a file, directory or glob, sorted by name.

    Raises:
        DataError: nothing is there, or nothing of a known type.
    """
    place = Path(path)
    if "\0" in path:
        raise DataError([f"{path!r}: a path can't hold a NUL character"])
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file() and _type_of(file))
        if not files:
            raise DataError([f"{path}: no {', '.join(SUFFIXES)} file in this directory"])
        return files
    if place.is_file():
        files = [place]
    else:
        files = sorted(Path(found) for found in glob.glob(path, recursive=True) if Path(found).is_file())  # noqa: PTH207
        if not files:
            raise DataError([f"{path}: no such file, and no file matches it as a glob"])
    unknown = [file for file in files if not _type_of(file)]
    if unknown:
        raise DataError(
            [f"{file}: not a data file; known are {', '.join(SUFFIXES)}, each also as .gz" for file in unknown]
        )
    return files


def _type_of(file: Path) -> str:
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    return suffix.lower() if suffix.lower() in SUFFIXES else ""


def rows_of(file: Path) -> Iterator[Row]:
    """Read a data file row by row; a row that can't be read comes as a Row with a problem.

    Raises:
        DataError: the file as a whole can't be read.
    """
    read = {".json": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}.get(
        _type_of(file), _jsonl_rows
    )
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield from read(file, stream)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError([f"{file}: can't be read: {error.strerror or error}"]) from None
    except (EOFError, zlib.error) as error:
        raise DataError([f"{file}: can't be read: broken gzip: {error}"]) from None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key '{twin}' is given twice")
    return values


def _not_json(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_not_json)


def _jsonl_rows(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    # Split on \n alone: str.splitlines would also cut at U+2028 and at form feeds inside strings.
    for number, raw in enumerate(stream, 1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            line = raw.decode("utf-8").strip(" \t\r\n")
        except UnicodeDecodeError as error:
            column = len(raw[: error.start].decode("utf-8")) + 1
            yield Row(number, None, f"not UTF-8: byte 0x{raw[error.start]:02x} at column {column}")
            continue
        if not line:
            continue
        separator = _line_separator(line)
        if separator:
            yield Row(number, None, separator)
            continue
        try:
            values, end = _decoder.raw_decode(line)
            if line[end:]:
                yield Row(number, None, f"broken JSON: something after the {_json_name(values)}, at column {end + 1}")
            else:
                yield _json_row(number, values, line)
        except (ValueError, RecursionError) as error:
            yield Row(number, None, f"broken JSON: {_why(error)}")


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number of more than 4300 digits" if "int_max_str_digits" in str(error) else str(error)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _json_row(line: int, values: Any, text: str) -> Row:
    if not isinstance(values, dict):
        name = _json_name(values)
        return Row(line, None, f"an object is needed, this is {'a ' if name != 'null' else ''}{name}")
    if _SURROGATE.search(text):
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return Row(line, None, f"half a character: \\u{ord(error.object[error.start]):04x} without its other half")
    return Row(line, values)


def _line_separator(line: str) -> str:
    for character in ("\u2028", "\u2029"):
        if character in line:
            return (
                f"a raw U+{ord(character):04X} at column {line.index(character) + 1}: many tools end the line there; "
                f"write it as \\u{ord(character):04x} or as \\n"
            )
    return ""


def _json_name(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")


def _json_rows(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError([f"{file}:{line}: not UTF-8: byte 0x{raw[error.start]:02x}"]) from None
    position, line = _skip(text, 0), 1
    if text[position : position + 1] != "[":
        hint = "; one object a line is JSON Lines: call the file .jsonl" if text[position : position + 1] == "{" else ""
        raise DataError([f"{file}:1: a .json file holds one list of objects{hint}"])
    line += text.count("\n", 0, position)
    start, position = position, _skip(text, position + 1)
    after_comma = False
    while text[position : position + 1] != "]" or after_comma:
        line, start = line + text.count("\n", start, position), position
        try:
            values, position = _decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            # Where an element ends is unknown from here on, so the rest can't be read.
            raise DataError([f"{file}:{line}: broken JSON: {_why(error)}"]) from None
        yield _json_row(line, values, text[start:position])
        position = _skip(text, position)
        after_comma = text[position : position + 1] == ","
        if after_comma:
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", start, position)
            raise DataError([f"{file}:{line}: broken JSON: a comma or the list's end is missing"])
    position = _skip(text, position + 1)
    if text[position:]:
        raise DataError([f"{file}:{text.count(chr(10), 0, position) + 1}: broken JSON: something after the list"])


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _csv_rows(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    # Bytes that are not UTF-8 become lone surrogates here, so that the row they are in can be named.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        yield from _csv_rows_of(file, lines)


def _csv_rows_of(file: Path, lines: IO[str]) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter="\t" if _type_of(file) == ".tsv" else ",", strict=True)
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
            twins = [name for name, count in Counter(header).items() if count > 1]
            if twins:
                raise DataError([f"{file}:{line}: the column '{twins[0]}' occurs twice"])
        elif not cells:
            continue
        elif len(cells) != len(header):
            cells_ = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
            yield Row(line, None, f"{cells_} under {len(header)} columns")
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            name = next(
                n for n, cell in zip(header, cells, strict=True) if any("\udc80" <= c <= "\udcff" for c in cell)
            )
            yield Row(line, None, f"not UTF-8: column '{name}'")
        elif separator := next(filter(None, map(_line_separator, cells)), ""):
            yield Row(line, None, separator)
        else:
            yield Row(line, dict(zip(header, cells, strict=True)))


def _parquet_rows(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError([f"{file}: Parquet files need pyarrow: pip install 'ftp-finetune[train]'"]) from None

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(stream.read()) if file.suffix == ".gz" else file)
        names = table.schema_arrow.names
        twins = [name for name, count in Counter(names).items() if count > 1]
        if twins:
            raise DataError([f"{file}: the column '{twins[0]}' occurs twice"])
        number = 0
        for batch in table.iter_batches(BATCH):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except pyarrow.ArrowException as error:
        raise DataError([f"{file}: not a readable Parquet file: {first_line(error)}"]) from None
