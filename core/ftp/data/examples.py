"""Examples on disk: an Arrow file mapped into memory, so that memory does not grow with the rows."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from ftp.data.tables import reading
from ftp.files import new_file
from ftp.types import Example, Message

BATCH = 1000
"""Rows handled together."""


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
        return decode(self._table.slice(self._indices[index], 1))[0]

    def __iter__(self) -> Iterator[Example]:
        for table in self.batches():
            yield from decode(table)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the rows in order, as Arrow tables of up to 1000 rows, with all columns or only these."""
        import pyarrow as pa

        whole = self._table if columns is None else self._table.select(list(columns))
        for start in range(0, len(self), BATCH):
            part = self._indices[start : start + BATCH]
            if isinstance(part, range) and part.step == 1:
                yield whole.slice(part.start, len(part))
            else:
                yield whole.take(pa.array(part, pa.int64()))

    def take(self, indices: Sequence[int]) -> Examples:
        """Return the examples at these positions, in this order."""
        mine = self._indices
        if isinstance(mine, range):
            return Examples(self._table, array("q", indices))
        return Examples(self._table, array("q", [mine[index] for index in indices]))

    def changed(self, changes: Mapping[int, Example]) -> Examples:
        """Return the examples with those at some positions replaced; the others are not copied."""
        import pyarrow as pa

        indices = array("q", self._indices)
        for number, index in enumerate(changes):
            indices[index] = self._table.num_rows + number
        new = pa.Table.from_batches([encode_batch(list(changes.values()))], schema())
        return Examples(pa.concat_tables([self._table, new]), indices)

    def column(self, name: str) -> list[Any]:
        """Return one field of every example, without decoding the rest: `id`, `source`, `role`, `origin` or `group`."""
        return [value for table in self.batches([name]) for value in table.column(0).to_pylist()]


class JudgedAnswers:
    """Answers of preference or feedback examples as conversations of which the last turn alone is trained.

    Args:
        rejected: whether to take the rejected answers of preference examples, not their last turns.
    """

    def __init__(self, examples: Examples, rejected: bool = False) -> None:
        self.examples, self.rejected = examples, rejected

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the rows in order, as `Examples.batches` does."""
        import pyarrow as pa

        for table in self.examples.batches():
            changed = [judged_answer(example, self.rejected) for example in decode(table)]
            whole = pa.Table.from_batches([encode_batch(changed)], schema())
            yield whole if columns is None else whole.select(list(columns))


def judged_answer(example: Example, rejected: bool = False) -> Example:
    """Return a preference or feedback example as a conversation of which the last turn alone is trained.

    Args:
        rejected: whether to take the rejected answer of a preference example, not its last turn.
    """
    before = [replace(message, train=False) for message in example.prompt]
    answer = example.rejected if rejected else example.messages[-1:]
    return replace(example, messages=(*before, *answer), rejected=(), label=None)


@dataclass(frozen=True, slots=True)
class Corpus:
    """The rows of a run. The three parts never share a row."""

    train: Examples
    validation: Examples
    evals: Mapping[str, Examples]
    count_tokens: Callable[[Sequence[str]], list[int]] | None = None
    """Counts the tokens in each text with the model's tokenizer, without special tokens; None when the loader can't
    tell."""


MESSAGE_FIELDS = ("role", "content", "train", "tool_calls", "name", "tool_call_id")


def schema() -> Any:
    """Return the Arrow schema of examples. Texts that most messages lack are null there."""
    import pyarrow as pa

    types = (pa.string(), pa.large_string(), pa.bool_(), pa.string(), pa.string(), pa.string())
    turns = pa.list_(pa.struct(list(zip(MESSAGE_FIELDS, types, strict=True))))
    return pa.schema(
        [
            *[(name, pa.string()) for name in ("id", "source", "role", "origin", "group")],
            ("text", pa.large_string()),
            ("messages", turns),
            ("rejected", turns),
            ("label", pa.bool_()),
            ("tools", pa.string()),
            ("control_tokens", pa.string()),
            ("weight", pa.float64()),
        ]
    )


def encode_batch(examples: Sequence[Example]) -> Any:
    """Return examples as a `pyarrow.RecordBatch` of `schema()`."""
    import pyarrow as pa

    fields = {field.name: field.type for field in schema()}

    def turns(lists: Sequence[Sequence[Message]]) -> Any:
        offsets = [0, *itertools.accumulate(map(len, lists))]
        flat = [message for messages in lists for message in messages]
        types = [field.type for field in fields["messages"].value_type]
        columns = [
            pa.array([getattr(m, name) if name in ("content", "train") else getattr(m, name) or None for m in flat], of)
            for name, of in zip(MESSAGE_FIELDS, types, strict=True)
        ]
        struct = pa.StructArray.from_arrays(columns, list(MESSAGE_FIELDS))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct).cast(fields["messages"])

    def column(name: str) -> Any:
        values = [getattr(example, name) for example in examples]
        return turns(values) if name in ("messages", "rejected") else pa.array(values, fields[name])

    return pa.RecordBatch.from_arrays([column(name) for name in fields], schema=schema())


def decode(table: Any) -> list[Example]:
    """Decode the rows of a `pyarrow.Table` of examples, with all columns or some.

    Column by column, which is several times faster than row by row.
    """
    columns = {
        name: _turns(table.column(name)) if name in ("messages", "rejected") else table.column(name).to_pylist()
        for name in table.column_names
    }
    names = tuple(columns)
    return [Example(**dict(zip(names, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def _turns(column: Any) -> list[tuple[Message, ...]]:
    import pyarrow as pa

    array = column.combine_chunks()
    lengths = array.value_lengths().to_pylist()
    if not any(lengths):
        return [()] * len(lengths)
    flat = array.flatten()
    known = {field.name for field in flat.type}
    roles, contents = flat.field("role").to_pylist(), flat.field("content").to_pylist()
    trains = flat.field("train").to_pylist() if "train" in known else [True] * len(flat)
    rare = [flat.field(name) if name in known else pa.nulls(len(flat)) for name in MESSAGE_FIELDS[3:]]
    if all(field.null_count == len(field) for field in rare):
        messages = map(Message, roles, contents, trains)
    else:
        rest = [["" if value is None else value for value in field.to_pylist()] for field in rare]
        messages = map(Message, roles, contents, trains, *rest)
    return [tuple(itertools.islice(messages, length)) for length in lengths]


def write_examples(file: Path, examples: Iterable[Example]) -> Examples:
    """Write examples to an Arrow file, whole or not at all, and open it mapped into memory."""
    import pyarrow as pa

    with new_file(file) as aside, pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema()) as writer:
        if isinstance(examples, Examples):
            for table in examples.batches():
                writer.write_table(table)
        else:
            rows = iter(examples)
            while batch := list(itertools.islice(rows, BATCH)):
                writer.write_batch(encode_batch(batch))
    return Examples(_mapped(file))


def read_examples(file: Path) -> Examples:
    """Open an Arrow file of examples, mapped into memory.

    Fields missing from an older release's file get their defaults.

    Raises:
        DataError: it is missing or damaged.
    """
    import pyarrow as pa

    with reading(file):
        table = _mapped(file)
        table.validate(full=True)
        _complete(table)
        if table.schema != schema():
            batches = [encode_batch(decode(batch)) for batch in Examples(table).batches()]
            table = pa.Table.from_batches(batches, schema())
    return Examples(table)


def _mapped(file: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def _complete(table: Any) -> None:
    """Raise ValueError where a column is unknown or lacks a value that every example has."""
    known = {field.name: field.type for field in schema()}
    for name in table.column_names:
        if name not in known:
            raise ValueError(f"unknown column {name}")
        column = table.column(name)
        turns = name in ("messages", "rejected")
        if turns:
            flat = column.combine_chunks().flatten()
            lacking = column.null_count + sum(flat.field(part).null_count for part in ("role", "content"))
        else:
            lacking = 0 if name in ("label", "tools") else column.null_count
        if lacking:
            raise ValueError(f"column {name} lacks a value")
    if not {"id", "source", "messages"} <= set(table.column_names):
        raise ValueError("has no examples in it")


def shared_system(examples: Iterable[Example]) -> str:
    """Return the system turn with which all prompts begin; empty where there is none or they differ."""
    firsts = {"".join(turn.content for turn in example.prompt[:1] if turn.role == "system") for example in examples}
    return firsts.pop() if len(firsts) == 1 else ""
