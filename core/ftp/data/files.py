"""Files to rows: which files a path stands for, and which reader reads each."""

from __future__ import annotations

import glob
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ftp.data.readers.arrow import arrow, parquet
from ftp.data.readers.csv_table import csv_table, dialect_in_words
from ftp.data.readers.excel import workbook
from ftp.data.readers.json_text import json_lines, json_list
from ftp.data.readers.plain_text import plain_text
from ftp.data.readers.rows import ReadOptions, Row
from ftp.errors import DataError

__all__ = ["PACKED", "SUFFIXES", "ReadOptions", "Row", "files_of", "notes_on", "rows_of", "type_of"]

READERS: dict[str, Callable[[Path, IO[bytes], ReadOptions], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_list,
    ".csv": csv_table,
    ".tsv": csv_table,
    ".xlsx": workbook,
    ".parquet": parquet,
    ".arrow": arrow,
    ".feather": arrow,
    ".txt": plain_text,
    ".md": plain_text,
}
SUFFIXES = tuple(READERS)
PACKED = (".gz", ".zst")
AS_THEY_ARE = ReadOptions()


def files_of(path: str) -> list[Path]:
    """List the data files behind a file, directory or glob, sorted by name.

    A directory that `save_to_disk` of datasets wrote stands for the rows in it. Text files are taken from a directory
    only where nothing else is in it: a README beside the data is none.

    Raises:
        DataError: nothing is there, or nothing of a known type, or it can't be read.
    """
    try:
        return _files_of(path)
    except (OSError, ValueError) as error:
        raise DataError([f"{path}: can't be read: {getattr(error, 'strerror', None) or error}"]) from None


def _files_of(path: str) -> list[Path]:
    place = Path(path)
    if "\0" in path:
        raise DataError([f"{path!r}: a path can't hold a NUL character"])
    if place.is_dir():
        return _files_in(place)
    if place.is_file():
        files = [place]
    else:
        files = sorted(Path(found) for found in glob.glob(path, recursive=True) if Path(found).is_file())  # noqa: PTH207
        if not files:
            raise DataError([f"{path}: no such file, and no file matches it as a glob"])
    unknown = [file for file in files if not type_of(file)]
    if unknown:
        known = f"known are {', '.join(SUFFIXES)}, each also as {' or '.join(PACKED)}"
        raise DataError([f"{file}: not a data file; {known}" for file in unknown])
    return files


def _files_in(place: Path) -> list[Path]:
    if saved := _saved_data_set(place):
        return saved
    list(place.iterdir())  # rglob passes over what it may not read
    files = sorted(file for file in place.rglob("*") if file.is_file() and type_of(file))
    tables = [file for file in files if type_of(file) not in (".txt", ".md")]
    if not files:
        raise DataError([f"{place}: no {', '.join(SUFFIXES)} file in this directory"])
    return tables or files


def _saved_data_set(place: Path) -> list[Path]:
    """List the files of a directory that `Dataset.save_to_disk` or that of a `DatasetDict` wrote."""
    if (place / "dataset_dict.json").is_file():
        splits = json.loads((place / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        if len(splits) != 1:
            raise DataError([f"{place}: has the splits {', '.join(splits)}; name one: {place / splits[0]}"])
        place = place / splits[0]
    if not ((place / "dataset_info.json").is_file() and (place / "state.json").is_file()):
        return []
    state = json.loads((place / "state.json").read_text(encoding="utf-8"))
    try:
        return [place / Path(file["filename"]).name for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise DataError([f"{place / 'state.json'}: not the state of a saved data set"]) from None


def type_of(file: Path) -> str:
    """Return the suffix that says how a file is read, or nothing where it is no data file."""
    suffix = Path(file.stem).suffix if file.suffix.lower() in PACKED else file.suffix
    return suffix.lower() if suffix.lower() in SUFFIXES else ""


READ_OF = {
    "delimiter": (".csv", ".tsv"),
    "encoding": (".csv", ".tsv", ".txt", ".md"),
    "sheet": (".xlsx",),
    "sample_by": (".txt", ".md"),
}
"""The options of reading, each with the types of file that it is for."""


def unread_options(path: str | None, options: ReadOptions) -> list[tuple[str, Sequence[str]]]:
    """Return the options that no file of a path has a use for, each with the types of file that it is for.

    Args:
        path: as a recipe gives it; None for no file at all.
    """
    given = [key for key in READ_OF if getattr(options, key) is not None]
    try:
        types = {type_of(file) for file in files_of(path)} if given and path else set()
    except DataError:  # reading the rows reports it
        return []
    return [(key, READ_OF[key]) for key in given if not types.intersection(READ_OF[key])]


def rows_of(file: Path, options: ReadOptions = AS_THEY_ARE) -> Iterator[Row]:
    """Read a data file row by row; what can't be read comes as a Row with a problem.

    Raises:
        DataError: the file as a whole can't be read.
    """
    read = READERS.get(type_of(file), json_lines)
    try:
        with _opened(file) as stream:
            yield from read(file, stream, options)
    except OSError as error:
        raise DataError([f"{file}: can't be read: {error.strerror or error}"]) from None
    except (EOFError, zlib.error) as error:
        raise DataError([f"{file}: can't be read: broken gzip: {error}"]) from None


def notes_on(file: Path, options: ReadOptions = AS_THEY_ARE) -> str:
    """Say what had to be found out to read a file, such as `delimiter semicolon, encoding cp1252`; usually nothing."""
    if type_of(file) not in (".csv", ".tsv"):
        return ""
    try:
        with _opened(file) as stream:
            return dialect_in_words(file, stream, options)
    except (OSError, EOFError, zlib.error, DataError):  # reading its rows says so
        return ""


def _opened(file: Path) -> IO[bytes]:
    """Open a file, unpacked where it is packed."""
    if file.suffix.lower() == ".gz":
        return gzip.open(file)  # type: ignore[return-value]
    if file.suffix.lower() == ".zst":
        try:
            import pyarrow
        except ModuleNotFoundError:
            raise DataError([f"{file}: .zst files need pyarrow: pip install 'ftp-finetune[train]'"]) from None
        return io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))
    return file.open("rb")
