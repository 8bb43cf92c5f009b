"""Sources to rows, rows to examples, examples to the corpus of a run.

Examples live in Arrow files that are mapped into memory, so that memory does not grow with the rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import Field

from ftp.components import Curator, FilePath, Formatter, Options
from ftp.errors import DataError, RowError
from ftp.ledger import Ledger
from ftp.rows import BATCH, Row, files_of, rows_of
from ftp.types import Corpus, Example, Message

SHOWN_PROBLEMS = 20


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


# --- examples -------------------------------------------------------------------------------------------------------


def examples_of(source: Source) -> Iterator[tuple[Path | str, int, Example | str]]:
    """Read a source: for each row its file or hub name, its line, and the example or what is wrong with it."""
    name = source.path or f"{source.hub}/{source.split or 'train'}"
    good, bad = 0, ""
    for place, row in _rows_of_source(source):
        found = _format(source, row)
        if isinstance(found, Example):
            good += 1
        else:
            bad = bad or f"; the first bad one is {place}:{row.line}: {found}"
        yield place, row.line, found
    if not good and (source.on_bad_row == "drop" or not bad):
        raise DataError([f"{name}: no usable row{bad}"])


def _rows_of_source(source: Source) -> Iterator[tuple[Path | str, Row]]:
    if source.path is None:
        for row in _hub_rows(source):
            yield f"{source.hub}/{source.split or 'train'}", row
    else:
        for file in files_of(source.path):
            for row in rows_of(file):
                yield file, row


def _hub_rows(source: Source) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_dataset(source.hub, split=source.split or "train", revision=source.revision)
    except Exception as error:  # the library raises many kinds; the user needs the name and the reason
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError([f"{source.hub}: can't be loaded from the hub: {reason}"]) from None
    for number, values in enumerate(found, 1):
        yield Row(number, values)


def _format(source: Source, row: Row) -> Example | str:
    if row.values is None:
        return row.problem
    try:
        example = source.format.format(row.values)
    except RowError as error:
        return str(error)
    except Exception as error:  # a plugin's own code may raise anything; the row and the plugin are named
        return f"the formatter '{source.format.used_as}' failed on this row: {type(error).__name__}: {error}"
    if not isinstance(example, Example):
        return f"the formatter '{source.format.used_as}' returned {type(example).__name__}, not an Example"
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
            if isinstance(part, range) and part.step == 1:
                table = self._table.slice(part.start, len(part))
            else:
                table = self._table.take(list(part))
            yield from map(_decode, table.to_pylist())

    def take(self, indices: Sequence[int]) -> Examples:
        """The examples at these positions, in this order."""
        return Examples(self._table, [self._indices[index] for index in indices])

    def column(self, name: str) -> list[Any]:
        """One field of every example, without decoding the rest: `id`, `source` or `role`."""
        column = self._table.column(name)
        part = self._indices
        if isinstance(part, range) and part.step == 1:
            return list(column.slice(part.start, len(part)).to_pylist())
        return list(column.take(list(part)).to_pylist()) if len(part) else []


def _decode(row: dict[str, Any]) -> Example:
    messages = tuple(Message(m["role"], m["content"]) for m in row["messages"] or ())
    return Example(messages, row["text"], row["id"], row["source"], row["role"])


def _schema() -> Any:
    import pyarrow as pa

    text = pa.large_string()
    message = pa.struct([("role", pa.string()), ("content", text)])
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("role", pa.string()),
            ("text", text),
            ("messages", pa.list_(message)),
        ]
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


# --- the whole data stage -------------------------------------------------------------------------------------------


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
            try:
                yield from collect_one(source, split)
            except DataError as error:  # a file that can't be read at all; go on, to tell of all of them at once
                problems.extend(error.problems)

    def collect_one(source: Source, split: str) -> Iterator[Example]:
        number = 0
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
        progress(number % BATCH)

    def gather(sources: Iterable[Source], split: str, file: str) -> Examples:
        return write_examples(directory / file, collect(sources, split))

    rows = gather(data.train, "train", "rows.arrow")
    watched = gather([data.validation], "validation", "watched.arrow") if isinstance(data.validation, Source) else None
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
        silent = ledger.kept("train") - set(corpus.train.column("id"))
        if silent:
            what = f"took {len(silent)} rows out and told the ledger nothing, {min(silent)} among them"
            raise DataError([f"{curator.used_as}: {what}"])
    if not len(corpus.train):
        raise DataError(["data.train: no row is left to train on"])
    return corpus, ledger


def summary(problems: Sequence[str]) -> list[str]:
    """The first bad rows, how many more there are, and what to do."""
    more = len(problems) - SHOWN_PROBLEMS
    return [
        *problems[:SHOWN_PROBLEMS],
        *([f"… and {more} more bad rows"] if more > 0 else []),
        "Mend these, or set `on_bad_row: drop` on the source to drop bad rows into the ledger.",
    ]


def shown(place: Path | str, home: Path) -> str:
    """A file relative to `home` where it lies below it, else whole; a hub name as it is."""
    if isinstance(place, str):
        return place
    return str(place.relative_to(home)) if place.is_relative_to(home) else str(place)


def _carve(rows: Examples, share: float, seed: int, ledger: Ledger) -> tuple[Examples, Examples]:
    """Move a share of the domain rows, drawn with `seed`, into validation. At least one row goes and one stays."""
    domain = [index for index, role in enumerate(rows.column("role")) if role == "domain"]
    count = min(max(1, round(share * len(domain))), len(domain) - 1) if share and len(domain) > 1 else 0
    chosen = set(random.Random(seed).sample(domain, count))
    validation = rows.take(sorted(chosen))
    for id in validation.column("id"):
        ledger.move(id, "validation")
    return rows.take([index for index in range(len(rows)) if index not in chosen]), validation
