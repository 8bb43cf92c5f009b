"""Rows of token ids on disk, cached by texts, chat template and tokenizer."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

from ftp.cache import forget_unused, user_cache
from ftp.components import Loader, LoadsTokenizer
from ftp.data.examples import Examples, JudgedAnswers, decode
from ftp.files import digest, new_file
from ftp.lm.byte_level import ByteLevel
from ftp.lm.rendering import Tokens, encode_texts, rendered
from ftp.types import LoadedTokenizer

LAYOUT = 2
"""Part of the cache key; increased when what is written, or how a row is rendered or masked, changes."""
PARALLEL_ROWS = 100_000
"""Number of rows from which starting several processes is worth the seconds it takes."""
CONTENT = ("text", "messages", "rejected", "tools", "control_tokens")
"""The columns of an example that determine its tokens."""


class TokenRows(Sequence[Tokens]):
    """Tokenised rows in an Arrow table with `input_ids` (lists of int32) and `trained` (lists of booleans)."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> TokenRows: ...
    def __getitem__(self, index: int | slice) -> Tokens | TokenRows:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        row = self.table.slice(range(len(self))[index], 1)
        return Tokens(row.column("input_ids")[0].as_py(), row.column("trained")[0].as_py())

    def __iter__(self) -> Iterator[Tokens]:
        for batch in self.table.to_batches(1000):
            yield from map(Tokens, batch.column("input_ids").to_pylist(), batch.column("trained").to_pylist())

    def take(self, indices: Sequence[int]) -> TokenRows:
        """Return the rows at these positions, in this order."""
        import pyarrow as pa

        if isinstance(indices, range) and indices.step == 1:
            return TokenRows(self.table.slice(indices.start, len(indices)))
        return TokenRows(self.table.take(pa.array(list(indices), pa.int64())))

    def cut(self, length: int) -> TokenRows:
        """Return the rows cut to at most `length` tokens."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(self) or self.lengths().max() <= length:
            return self
        columns = [pc.list_slice(self.table.column(name), 0, length) for name in self.table.column_names]
        return TokenRows(pa.table(columns, names=self.table.column_names))

    def split(self, length: int, parts: Sequence[int]) -> TokenRows:
        """Return the rows with some of them in several parts of at most `length` tokens.

        Each part after the first begins with the last token of the one before, as context that carries no loss, so
        that every token is predicted once.

        Args:
            parts: for each row the number of its parts: `parts_of(its length, length)`, or 1 to leave it whole.
        """
        import pyarrow as pa

        tables = []
        for index, count in enumerate(parts):
            row = self.table.slice(index, 1)
            if count == 1:
                tables.append(row)
                continue
            ids, trained = row["input_ids"][0].as_py(), row["trained"][0].as_py()
            starts = range(0, len(ids) - 1, length - 1)
            columns = {
                "input_ids": [ids[start : start + length] for start in starts],
                "trained": [[trained[start] and not start, *trained[start + 1 : start + length]] for start in starts],
            }
            tables.append(pa.table(columns, schema=self.table.schema))
        return TokenRows(pa.concat_tables(tables).combine_chunks()) if tables else self

    @classmethod
    def alternating(cls, first: TokenRows, second: TokenRows) -> TokenRows:
        """Return the rows of two tables of the same length in turn, the first of each before the second of each."""
        import pyarrow as pa

        names = [name for name in first.table.column_names if name in second.table.column_names]
        both = TokenRows(pa.concat_tables([first.table.select(names), second.table.select(names)]))
        return both.take([at for row in range(len(first)) for at in (row, len(first) + row)])

    def lengths(self) -> Any:
        """Count the tokens of each row; return a numpy array, int64 [rows]."""
        return self._per_row(lambda lists: lists.value_lengths().to_numpy(zero_copy_only=False))

    def trained_counts(self, skip: int = 0) -> Any:
        """Count the trained tokens of each row without its first `skip` tokens; return a numpy array, int64 [rows]."""
        import numpy as np

        def counts(lists: Any) -> Any:
            offsets = lists.offsets.to_numpy()
            before = np.concatenate([[0], np.cumsum(lists.values.to_numpy(zero_copy_only=False))])
            return before[offsets[1:]] - before[np.minimum(offsets[:-1] + skip, offsets[1:])]

        return self._per_row(counts, "trained")

    def _per_row(self, count: Callable[[Any], Any], column: str = "input_ids") -> Any:
        import numpy as np

        found = [count(lists) for lists in self.table.column(column).chunks]
        return np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int64)


def parts_of(tokens: int, length: int) -> int:
    """Count the parts of at most `length` tokens that a text is split into, each overlapping the one before by one."""
    return max(1, math.ceil((tokens - 1) / (length - 1)))


def tokenise(
    loaded: LoadedTokenizer,
    examples: Examples | JudgedAnswers,
    loss_on: str = "answers",
    progress: Callable[[int], None] = lambda rows: None,
) -> TokenRows:
    """Render and tokenise every example, or take the rows from the cache if the same ones were tokenised before.

    The cache identifies rows by their content: texts, chat template, tokenizer, stop tokens and `loss_on`. Lengths are
    not part of the key, since nothing is cut here.

    Args:
        loaded: the tokenizer and the tokens that end an answer.
        loss_on: as for `ftp.lm.rendering.rendered`.
        progress: called with the number of rows done since the last call.

    Raises:
        ModelError: the chat template refuses a row.
    """
    import pyarrow as pa

    cache = user_cache("tokens")
    file = cache / f"{cache_key(loaded, examples, loss_on)}.arrow"
    if file.is_file():
        os.utime(file)
        progress(len(examples))
        return _read(file)
    forget_unused(cache)
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("trained", pa.list_(pa.bool_()))])
    with (
        new_file(file, shared=True) as aside,
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for batch in _batches(loaded, examples, loss_on):
            writer.write_batch(batch)
            progress(batch.num_rows)
    return _read(file)


def _batches(loaded: LoadedTokenizer, examples: Examples | JudgedAnswers, loss_on: str) -> Iterator[Any]:
    """Tokenise rows batch by batch, in order; many rows are distributed over several processes."""
    tables = examples.batches(("id", *CONTENT))
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers == 1 or len(examples) < PARALLEL_ROWS:
        yield from map(_Encoder(loaded, loss_on), tables)
        return
    # Spawned and not forked: libraries with threads of their own may hang in a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (loaded, loss_on)) as pool:
        waiting: deque[Future[Any]] = deque()
        for table in tables:
            waiting.append(pool.submit(_in_worker, _packed(table)))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Encoder:
    def __init__(self, loaded: LoadedTokenizer, loss_on: str) -> None:
        self.loaded, self.loss_on = loaded, loss_on
        self.fast = ByteLevel.of(loaded.tokenizer)

    def __call__(self, table: Any) -> Any:
        """Tokenise a `pyarrow.Table` of examples, with all columns or some, to a batch of token ids and masks."""
        import numpy as np
        import pyarrow as pa

        texts = rendered(self.loaded.tokenizer, decode(table), self.loss_on)
        rows = encode_texts(self.loaded.tokenizer, texts, self.loaded.stops, self.fast)
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(ids) for ids, _ in rows], out=offsets[1:])
        flat = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in rows), np.int32, offsets[-1])
        trained = np.zeros(offsets[-1], bool)
        for at, (_, spans) in zip(offsets.tolist(), rows, strict=False):
            for start, end in spans:
                trained[at + start : at + end] = True
        lists = [pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)) for values in (flat, trained)]
        return pa.RecordBatch.from_arrays(lists, ["input_ids", "trained"])


def _packed(table: Any) -> bytes:
    """Serialise a table on its own: a pickled slice would include the whole table."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


_workers_own: list[_Encoder] = []


def _start_worker(loaded: LoadedTokenizer, loss_on: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    _workers_own.append(_Encoder(loaded, loss_on))


def _in_worker(packed: bytes) -> Any:
    import pyarrow as pa

    return _workers_own[0](pa.ipc.open_stream(packed).read_all())


def _read(file: Path) -> TokenRows:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return TokenRows(pa.ipc.open_file(source).read_all())


def cache_key(loaded: LoadedTokenizer, examples: Examples | JudgedAnswers, loss_on: str = "answers") -> str:
    """Return the key of these tokens in the cache: SHA-256 over everything that determines them."""
    import pyarrow as pa

    tokenizer, backend = loaded.tokenizer, loaded.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    found = hashlib.sha256(
        digest(
            [
                *(LAYOUT, loss_on, loaded.stops, tokenizer.chat_template, tokenizer.special_tokens_map),
                *(backend.to_str(), version("tokenizers"), version("transformers")),
            ]
        ).encode()
    )
    for table in examples.batches(CONTENT):
        # Copied, the rows are the same bytes wherever in which file they came from; a slice keeps bits of its
        # neighbours.
        for batch in table.take(pa.array(range(table.num_rows), pa.int64())).combine_chunks().to_batches():
            found.update(batch.serialize())
    return found.hexdigest()


def token_counter(loader: Loader) -> Callable[[Sequence[str]], list[int]] | None:
    """Return a function for curators that counts the tokens of each of some texts, without special tokens.

    The loader's tokenizer is loaded when the function is first called. None if the loader has no tokenizer without
    its weights.
    """
    if not isinstance(loader, LoadsTokenizer):
        return None
    found = functools.cache(loader.load_tokenizer)

    def count(texts: Sequence[str]) -> list[int]:
        loaded = found()
        assert loaded is not None
        backend = loaded.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [len(encoding) for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count
