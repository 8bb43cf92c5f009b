"""Training rows as hashes, and the rows of an index that they match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ftp.data.shingles import hash_words, ngrams, words
from ftp_plugins.curators.ngram_index import (
    KINDS,
    MIN_WORDS,
    Index,
    N,
    question_keys,
    sequence_hashes,
    whole_keys,
    within,
)

QUOTED = 20
"""Words of a match that are quoted."""


class Batch:
    """The rows of an Arrow table of examples as hashes; needs the columns id, text, messages and rejected."""

    COLUMNS = ("id", "text", "messages", "rejected")

    def __init__(self, table: Any) -> None:
        import numpy as np

        self.ids: list[str] = table.column("id").to_pylist()
        rows = len(self.ids)
        turns, roles, texts = _turns(table.column("messages"))
        rejected, _, lost = _turns(table.column("rejected"))
        running = [text or "" for text in table.column("text").to_pylist()]
        self._texts = [*texts, *running, *lost]
        # A unit is a run of texts of one row: its turns, its running text, its rejected turns.
        lengths = np.concatenate([turns, np.ones(rows, np.int64), rejected])
        self._units = np.concatenate([[0], np.cumsum(lengths)])
        hashes, offsets = hash_words(self._texts)
        unit_offsets = offsets[self._units]
        self.grams, self._starts = ngrams(hashes, unit_offsets, N)
        self.gram_row = np.repeat(np.tile(np.arange(rows), 3), np.diff(self._starts))
        self._hash_keys(hashes, offsets, turns, np.array([role == "user" for role in roles], bool), len(texts))

    def _hash_keys(self, hashes: Any, offsets: Any, turns: Any, of_user: Any, texts: int) -> None:
        import numpy as np

        rows = len(turns)
        each = sequence_hashes(hashes, offsets)
        turn_row = np.repeat(np.arange(rows), turns)
        # All the user's turns in one, too.
        lengths = np.diff(offsets)[:texts] * of_user
        joined_offsets = np.concatenate([[0], np.cumsum(lengths)])[np.concatenate([[0], np.cumsum(turns)])]
        joined = sequence_hashes(hashes[: offsets[texts]][np.repeat(of_user, np.diff(offsets)[:texts])], joined_offsets)
        talks = np.flatnonzero(turns)
        last = each[self._units[talks + 1] - 1]
        running = each[texts : texts + rows]
        self.questions = question_keys(np.concatenate([each[:texts][of_user], joined[talks]]))
        self.question_row = np.concatenate([turn_row[of_user], talks])
        self.keys = np.concatenate(
            [self.questions, whole_keys(joined[talks], last), whole_keys(np.zeros_like(running), running)]
        )
        self.key_row = np.concatenate([self.question_row, talks, np.arange(rows)])

    def quote(self, row: int, gram: int | None = None, length: int = QUOTED) -> str:
        """Return words of a row, from an n-gram on or from the start, shortened."""
        import numpy as np

        unit, start = row, 0
        if gram is None:
            unit = row if self._units[row + 1] > self._units[row] else row + len(self.ids)
        else:
            at = int(np.flatnonzero((self.gram_row == row) & (self.grams == gram))[0])
            unit = int(np.searchsorted(self._starts, at, "right")) - 1
            start = at - int(self._starts[unit])
        found = words(" ".join(self._texts[self._units[unit] : self._units[unit + 1]]))[start : start + length]
        more = " …" if len(found) > QUOTED else ""
        return f'"{" ".join(found[:QUOTED])}{more}"'


def _turns(column: Any) -> tuple[Any, list[str], list[str]]:
    """Return the number of turns of each row, and the roles and the texts of all turns."""
    import numpy as np

    array = column.combine_chunks()
    lengths = np.array(array.value_lengths().fill_null(0), np.int64)
    if not lengths.any():
        return lengths, [], []
    flat = array.flatten()
    return lengths, flat.field("role").to_pylist(), flat.field("content").to_pylist()


def common(hashes: Any, rows: Any, limit: float) -> Any:
    """Return the hashes that more than `limit` rows have, sorted.

    Args:
        hashes, rows: uint64 and the row of each.
    """
    import numpy as np

    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    new_hash = np.append(True, hashes[1:] != hashes[:-1])
    new_pair = new_hash | np.append(True, rows[1:] != rows[:-1])
    starts = np.flatnonzero(new_hash[: len(hashes)])
    if not len(starts):
        return np.empty(0, np.uint64)
    return hashes[starts][np.add.reduceat(new_pair[: len(hashes)].astype(np.int64), starts) > limit]


class Match(NamedTuple):
    """A training row and the row of an index that it shares text with."""

    row: int
    """In the batch."""
    other: int
    """In the index."""
    coverage: float
    """Share of the counted words of the other's field that are in shared n-grams."""
    run: int
    """The longest sequence of such words."""
    kind: str
    """The field that matches."""
    gram: int | None
    """The first n-gram of the longest run; None when the whole prompt or row is equal."""
    length: int


class Matcher:
    """Looks up training rows in an index. Words in n-grams of `boilerplate` count on neither side."""

    def __init__(self, index: Index, boilerplate: Any) -> None:
        import numpy as np

        self.index = index
        starts = np.concatenate([[0], np.cumsum(index.field_words, dtype=np.int64)])
        self._field_starts = starts
        # Where the words of every n-gram begin, counted over all fields.
        at = np.arange(len(index.grams)) + index.gram_field * (N - 1)
        usual = np.isin(index.grams, boilerplate)
        covered = np.zeros(starts[-1] + 1, np.int64)
        np.add.at(covered, at[usual], 1)
        np.add.at(covered, at[usual] + N, -1)
        self._counting = np.concatenate([[0], np.cumsum(np.cumsum(covered[:-1]) == 0)])
        self._left = self._counting[starts[1:]] - self._counting[starts[:-1]]
        used = np.flatnonzero(~usual & (self._left[index.gram_field] >= MIN_WORDS))
        used = used[np.argsort(index.grams[used], kind="stable")]
        self._unique, first = np.unique(index.grams[used], return_index=True)
        self._postings, self._bounds = at[used], np.append(first, len(used))

        telling = ~np.isin(index.questions, boilerplate)
        keys = np.concatenate([index.questions[telling], index.wholes])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._key_row = np.concatenate([index.question_row[telling], index.whole_row])[order]

    def matches(self, batch: Batch, coverage: float, run: int) -> list[Match]:
        """Return the best match of every pair of rows that share at least so much, in the order of the batch."""
        best: dict[tuple[int, int], Match] = {}
        for match in (*self._equal(batch), *self._overlapping(batch, coverage, run)):
            pair = match.row, match.other
            if pair not in best or (match.coverage, match.run) > (best[pair].coverage, best[pair].run):
                best[pair] = match
        return [best[pair] for pair in sorted(best)]

    def _equal(self, batch: Batch) -> Iterator[Match]:
        import numpy as np

        left = np.searchsorted(self._keys, batch.keys, "left")
        counts = np.searchsorted(self._keys, batch.keys, "right") - left
        which = np.repeat(np.arange(len(left)), counts)
        others = self._key_row[np.repeat(left, counts) + within(np.append(0, np.cumsum(counts)))]
        for key, other in zip(which.tolist(), others.tolist(), strict=True):
            kind = "prompt" if key < len(batch.questions) else "row"
            yield Match(int(batch.key_row[key]), other, 1.0, 0, kind, None, 0)

    def _overlapping(self, batch: Batch, coverage: float, run: int) -> Iterator[Match]:
        import numpy as np

        if not len(self._unique) or not len(batch.grams):
            return
        at = np.minimum(np.searchsorted(self._unique, batch.grams), len(self._unique) - 1)
        hit = np.flatnonzero(self._unique[at] == batch.grams)
        if not len(hit):
            return
        at, rows = at[hit], batch.gram_row[hit].astype(np.int64)
        counts = self._bounds[at + 1] - self._bounds[at]
        total = int(self._field_starts[-1])
        position = self._postings[np.repeat(self._bounds[at], counts) + within(np.append(0, np.cumsum(counts)))]
        # Every (row, position in the index) once, sorted: a field's positions follow one another.
        row, position = np.divmod(np.unique(np.repeat(rows, counts) * total + position), total)
        field = np.searchsorted(self._field_starts, position, "right") - 1
        new_pair = np.append(True, (row[1:] != row[:-1]) | (field[1:] != field[:-1]))
        starts = np.flatnonzero(new_pair)
        counting = self._counting
        before = np.append(0, position[:-1] + N)
        gained = counting[position + N] - counting[np.where(new_pair, position, np.maximum(position, before))]
        covered = np.add.reduceat(gained, starts) / self._left[field[starts]]

        runs = np.flatnonzero(new_pair | np.append(True, position[1:] != position[:-1] + 1))
        ends = position[np.append(runs[1:], len(position)) - 1] + N
        run_words = counting[ends] - counting[position[runs]]
        first_run = np.searchsorted(runs, starts)
        longest = np.maximum.reduceat(run_words, first_run)
        # Covered by short pieces alone, such as a name that comes up again and again, is not copied.
        copied = (covered >= coverage) & (longest >= MIN_WORDS) | (longest >= run)
        for pair in np.flatnonzero(copied).tolist():
            mine = slice(first_run[pair], first_run[pair + 1] if pair + 1 < len(first_run) else None)
            chosen = first_run[pair] + int(np.argmax(run_words[mine]))
            begin, of = int(position[runs[chosen]]), int(field[starts[pair]])
            yield Match(
                int(row[starts[pair]]),
                int(self.index.field_row[of]),
                float(covered[pair]),
                int(longest[pair]),
                KINDS[self.index.field_kind[of]],
                int(self.index.grams[begin - of * (N - 1)]),
                int(ends[chosen]) - begin,
            )
