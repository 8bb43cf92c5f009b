"""Paths, globs and hub ids to rows, rows to examples, and the ledger that knows what became of each.

Examples live in Arrow files that are mapped into memory, so that memory does not grow with the rows.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, overload

from pydantic import Field

from ftp.components import Curator, FilePath, Formatter, Options
from ftp.errors import DataError, RowError
from ftp.types import Corpus, Example, Message


SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SHOWN_PROBLEMS = 20
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source, or why there is none at this place."""

    line: int
    """The line it starts on; in Parquet files and on the hub the row's number. From 1."""
    values: Mapping[str, Any] | None
    problem: str = ""


# --- options -------------------------------------------------------------------------------------------------------


class Source(Options):
    """Where rows come from: files, or a data set on the hub."""

    path: FilePath | None = None
    """A file, a directory or a glob of .jsonl, .json, .csv, .tsv or .parquet files (also .gz)."""
    hub: str | None = None
    """The id of a data set on the Hugging Face hub."""
    split: str | None = None
    """Which split of the hub data set. Default: `train`."""
    revision: str | None = None
    """Which commit, tag or branch of the hub data set."""
    format: Formatter
    """How a row becomes an example."""
    role: Literal["domain", "replay"] = "domain"
    """`replay` is general data mixed in against forgetting."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    """What to do with a row that can't be used: stop and name it, or drop it into the ledger."""


class Data(Options):
    """The rows: to train on, to watch, and to evaluate on."""

    train: list[Source] = Field(min_length=1)
    """Sources to train on."""
    validation: float | Source = 0.1
    """Rows to watch the loss on: a share carved out of the domain rows, or a source of its own."""
    evals: dict[str, Source] = Field(default_factory=dict)
    """Named eval sets, never trained on."""
    curate: list[Curator] = Field(default_factory=list)
    """Curators, in this order."""


# --- rows --------------------------------------------------------------------------------------------------------------


def files_of(path: str) -> list[Path]:
    """The data files behind a file, directory or glob, sorted by name.

    Raises:
        DataError: nothing is there, or nothing of a known type.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file() and _type_of(file))
        if not files:
            raise DataError([f"{path}: no {', '.join(SUFFIXES)} file in this directory"])
        return files
    if place.is_file():
        files = [place]
    else:
        files = sorted(Path(found) for found in glob.glob(path, recursive=True) if Path(found).is_file())
        if not files:
            raise DataError([f"{path}: no such file, and no file fits it as a glob"])
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
    """Read a data file row by row; what can't be read comes as a Row with a problem.

    Raises:
        DataError: the file as a whole can't be read.
    """
    read = {".json": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows}.get(
        _type_of(file), _jsonl_rows
    )
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield from read(file, stream)  # type: ignore[arg-type]
    except (OSError, EOFError) as error:  # a broken gzip stream is an OSError or an EOFError
        raise DataError([f"{file}: can't be read: {error}"]) from None


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
            yield Row(number, None, f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}")
            continue
        if not line:
            continue
        separator = _line_separator(line)
        if separator:
            yield Row(number, None, separator)
            continue
        try:
            values, end = _decoder.raw_decode(line)
            if line[end:].strip():
                yield Row(number, None, f"broken JSON: something after the object, at column {end + 1}")
            elif isinstance(values, dict):
                yield Row(number, values)
            else:
                yield Row(number, None, f"a JSON object is needed, this is {_json_name(values)}")
        except json.JSONDecodeError as error:
            yield Row(number, None, f"broken JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            yield Row(number, None, f"broken JSON: {error}")


def _line_separator(line: str) -> str:
    for character in ("\u2028", "\u2029"):
        if character in line:
            return (
                f"a raw U+{ord(character):04X} at column {line.index(character) + 1}: many tools end the line there; "
                f"write it as \\u{ord(character):04x} or as \\n"
            )
    return ""


def _json_name(value: object) -> str:
    return {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}.get(
        type(value), "null"
    )


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
    while text[position : position + 1] != "]":
        line, start = line + text.count("\n", start, position), position
        try:
            values, position = _decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                line, error_text = error.lineno, f"{error.msg} at column {error.colno}"
            else:
                error_text = str(error)
            # Where an element ends is unknown from here on, so the rest can't be read.
            raise DataError([f"{file}:{line}: broken JSON: {error_text}"]) from None
        if isinstance(values, dict):
            yield Row(line, values)
        else:
            yield Row(line, None, f"a JSON object is needed, this is {_json_name(values)}")
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", start, position)
            raise DataError([f"{file}:{line}: broken JSON: a comma or the list's end is missing"])
    if text[_skip(text, position + 1) :]:
        raise DataError([f"{file}:{text.count(chr(10), 0, position) + 1}: broken JSON: something after the list"])


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _csv_rows(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    # Bytes that are not UTF-8 become lone surrogates here, so that the row they are in can be named.
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
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
                raise DataError([f"{file}:1: the column '{twins[0]}' is there twice"])
        elif not cells:
            continue
        elif len(cells) != len(header):
            yield Row(line, None, f"{len(cells)} cells under {len(header)} columns")
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            name = next(n for n, cell in zip(header, cells, strict=True) if any("\udc80" <= c <= "\udcff" for c in cell))
            yield Row(line, None, f"not UTF-8: column '{name}'")
        elif separator := next(filter(None, map(_line_separator, cells)), ""):
            yield Row(line, None, separator)
        else:
            yield Row(line, dict(zip(header, cells, strict=True)))


def _parquet_rows(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(stream.read()) if file.suffix == ".gz" else file)
        number = 0
        for batch in table.iter_batches(BATCH):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except pyarrow.ArrowException as error:
        raise DataError([f"{file}: not a readable Parquet file: {str(error).splitlines()[0]}"]) from None


def _hub_rows(source: Source) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_dataset(source.hub, split=source.split or "train", revision=source.revision)
    except Exception as error:  # the library raises many kinds; the user needs the name and the reason
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError([f"{source.hub}: can't be loaded from the hub: {reason}"]) from None
    for number, values in enumerate(found, 1):
        yield Row(number, values)


# --- examples ----------------------------------------------------------------------------------------------------------


def examples_of(source: Source) -> Iterator[tuple[Path | str, int, Example | str]]:
    """Read a source: for each row its file or hub name, its line, and the example or what is wrong with it."""
    if source.path is not None:
        for file in files_of(source.path):
            for row in rows_of(file):
                yield file, row.line, _format(source, row)
    else:
        for row in _hub_rows(source):
            yield f"{source.hub}/{source.split or 'train'}", row.line, _format(source, row)


def _format(source: Source, row: Row) -> Example | str:
    if row.values is None:
        return row.problem
    try:
        example = source.format.format(row.values)
    except RowError as error:
        return str(error)
    if example.kind == "text":
        return example if example.text.strip() else "empty text"
    if example.messages[-1].role != "assistant":
        return f"ends with the {example.messages[-1].role}'s turn; an answer by the assistant is needed"
    return example if example.reference.strip() else "empty answer"


class Examples(Sequence[Example]):
    """Examples in an Arrow table, decoded when asked for. `take` chooses and orders without copying the rows."""

    def __init__(self, table: Any, indices: Sequence[int] | None = None) -> None:
        self._table = table
        self._indices: Sequence[int] = range(table.num_rows) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return Examples(self._table, self._indices[index])
        return _decode(self._table.slice(self._indices[index], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), BATCH):
            part = self._indices[start : start + BATCH]
            contiguous = isinstance(part, range) and part.step == 1
            table = self._table.slice(part.start, len(part)) if contiguous else self._table.take(list(part))  # type: ignore[union-attr]
            yield from map(_decode, table.to_pylist())

    def take(self, indices: Sequence[int]) -> Examples:
        """The examples at these positions, in this order."""
        return Examples(self._table, [self._indices[index] for index in indices])

    def column(self, name: str) -> list[Any]:
        """One field of every example, without decoding the rest: `id`, `source` or `role`."""
        column = self._table.column(name)
        return list(column.take(list(self._indices)).to_pylist()) if not isinstance(self._indices, range) else [
            value for value in column.slice(self._indices.start, len(self)).to_pylist()
        ]


def _decode(row: dict[str, Any]) -> Example:
    messages = tuple(Message(m["role"], m["content"]) for m in row["messages"] or ())
    return Example(messages, row["text"], row["id"], row["source"], row["role"])


def _schema() -> Any:
    import pyarrow as pa

    text = pa.large_string()
    message = pa.struct([("role", pa.string()), ("content", text)])
    return pa.schema(
        [("id", pa.string()), ("source", pa.string()), ("role", pa.string()), ("text", text), ("messages", pa.list_(message))]
    )


def write_examples(file: Path, examples: Iterable[Example]) -> Examples:
    """Write examples to an Arrow file, whole or not at all, and open it mapped into memory."""
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.part")
    schema = _schema()
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        batch: list[dict[str, Any]] = []
        for example in examples:
            batch.append(
                {
                    "id": example.id,
                    "source": example.source,
                    "role": example.role,
                    "text": example.text,
                    "messages": [{"role": m.role, "content": m.content} for m in example.messages],
                }
            )
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    aside.replace(file)
    return read_examples(file)


def read_examples(file: Path) -> Examples:
    """Open an Arrow file of examples, mapped into memory."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return Examples(pa.ipc.open_file(source).read_all())


# --- the ledger --------------------------------------------------------------------------------------------------------


class Ledger:
    """What became of every input row: kept, dropped or truncated, by whom and why, and how many tokens it has."""

    COLUMNS = ("id", "source", "line", "split", "role", "fate", "by", "reason", "tokens", "trained_tokens")

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {}

    def add(self, id: str, source: str, line: int, split: str, role: str) -> None:
        """Enter a row. `split` is `train`, `validation` or `eval:NAME`."""
        if id in self._rows:
            raise DataError([f"{id}: this row is read twice; name each file once"])
        self._rows[id] = [id, source, line, split, role, "kept", "", "", None, None]

    def drop(self, id: str, by: str, reason: str) -> None:
        """Take a row out. `by` is the component's name, `reason` a few words that are the same for like rows."""
        self._fate(id, "dropped", by, reason)

    def truncate(self, id: str, by: str, reason: str) -> None:
        """Note that a row is used in part."""
        self._fate(id, "truncated", by, reason)

    def _fate(self, id: str, fate: str, by: str, reason: str) -> None:
        row = self._rows[id]
        if row[5] == "dropped":
            raise ValueError(f"{id} was dropped already, by {row[6]}: {row[7]}")
        row[5:8] = [fate, by, reason]

    def move(self, id: str, split: str) -> None:
        """Put a row into another split."""
        self._rows[id][3] = split

    def count_tokens(self, id: str, tokens: int, trained: int) -> None:
        """Note how many tokens a row has and how many of them carry loss."""
        self._rows[id][8:10] = [tokens, trained]

    def __len__(self) -> int:
        return len(self._rows)

    def totals(self) -> list[dict[str, Any]]:
        """Rows and tokens by split, role, fate, component and reason. The rows add up to the rows read."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for row in self._rows.values():
            group = groups.setdefault(tuple(row[3:8]), [0, 0, 0])
            group[0] += 1
            group[1] += row[8] or 0
            group[2] += row[9] or 0
        names = ("split", "role", "fate", "by", "reason")
        return [
            {**dict(zip(names, key, strict=True)), "rows": n, "tokens": tokens, "trained_tokens": trained}
            for key, (n, tokens, trained) in sorted(groups.items())
        ]

    def write(self, file: Path) -> None:
        """Write the ledger as Parquet, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = zip(*self._rows.values(), strict=True) if self._rows else ((),) * len(self.COLUMNS)
        types = [pa.string(), pa.string(), pa.int64(), *[pa.string()] * 5, pa.int64(), pa.int64()]
        arrays = [pa.array(list(column), type) for column, type in zip(columns, types, strict=True)]
        aside = file.with_name(f"{file.name}.part")
        pq.write_table(pa.table(arrays, names=list(self.COLUMNS)), aside)
        aside.replace(file)

    @classmethod
    def read(cls, file: Path) -> Ledger:
        import pyarrow.parquet as pq

        ledger = cls()
        for row in pq.read_table(file).to_pylist():
            ledger._rows[row["id"]] = [row[name] for name in cls.COLUMNS]
        return ledger


# --- the whole data stage ----------------------------------------------------------------------------------------------


def build_corpus(
    data: Data, directory: Path, home: Path, seed: int, progress: Callable[[int], None] = lambda rows: None
) -> tuple[Corpus, Ledger]:
    """Read every source, carve out validation, run the curators.

    Args:
        directory: where the examples are written.
        home: the recipe's directory; the ids of rows name files relative to it.
        progress: called with the number of rows read since its last call.

    Raises:
        DataError: bad rows, each named by file and line, or nothing left to train on.
    """
    ledger = Ledger()
    problems: list[str] = []

    def collect(sources: Iterable[Source], split: str) -> Iterator[Example]:
        for source in sources:
            for number, (place, line, found) in enumerate(examples_of(source), 1):
                if number % BATCH == 0:
                    progress(BATCH)
                name = shown(place, home)
                id = f"{name}:{line}"
                if isinstance(found, Example):
                    ledger.add(id, name, line, split, source.role)
                    yield replace(found, id=id, source=name, role=source.role)
                elif source.on_bad_row == "drop":
                    ledger.add(id, name, line, split, source.role)
                    ledger.drop(id, by=source.format.used_as, reason=found)
                else:
                    problems.append(f"{shown(place, Path.cwd())}:{line}: {found}")

    def gather(sources: Iterable[Source], split: str, file: str) -> Examples:
        return write_examples(directory / file, collect(sources, split))

    rows = gather(data.train, "train", "rows.arrow")
    watched = (
        gather([data.validation], "validation", "watched.arrow") if isinstance(data.validation, Source) else None
    )
    evals = {name: gather([source], f"eval:{name}", f"eval-{name}.arrow") for name, source in data.evals.items()}
    if problems:
        raise DataError(summary(problems))
    for name, examples in evals.items():
        if not len(examples):
            raise DataError([f"data.evals.{name}: has no usable row"])

    if watched is None:
        assert isinstance(data.validation, float)
        rows, watched = _carve(rows, data.validation, seed, ledger)
    corpus = Corpus(rows, watched, evals)
    for curator in data.curate:
        corpus = curator.curate(corpus, ledger)
    if not len(corpus.train):
        raise DataError(["data.train: no row is left to train on"])
    return corpus, ledger


def summary(problems: Sequence[str]) -> list[str]:
    """The first bad rows, how many more there are, and what to do."""
    more = len(problems) - SHOWN_PROBLEMS
    return [
        *problems[:SHOWN_PROBLEMS],
        *([f"… and {more} more bad rows"] if more > 0 else []),
        "Mend these rows, or set `on_bad_row: drop` on the source to drop them into the ledger.",
    ]


def shown(place: Path | str, home: Path) -> str:
    """A file relative to `home` where it lies below it, else whole; a hub name as it is."""
    if isinstance(place, str):
        return place
    return str(place.relative_to(home)) if place.is_relative_to(home) else str(place)


def _carve(rows: Examples, share: float, seed: int, ledger: Ledger) -> tuple[Examples, Examples]:
    """Move a share of the domain rows, drawn with `seed`, into validation. At least one row when the share is not 0."""
    domain = [index for index, role in enumerate(rows.column("role")) if role == "domain"]
    count = max(1, round(share * len(domain))) if share and len(domain) > 1 else 0
    chosen = set(random.Random(seed).sample(domain, count))
    validation = rows.take(sorted(chosen))
    for id in validation.column("id"):
        ledger.move(id, "validation")
    return rows.take([index for index in range(len(rows)) if index not in chosen]), validation
