"""Training rows as hashes, and the rows of an index that they match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ftp.data.shingles import hash_words, ngrams
from ftp.data.words import words
from ftp_plugins.curators.entries import KINDS
from ftp_plugins.curators.ngram_index import (
    MIN_WORDS,
    Index,
    N,
    answer_keys,
    question_keys,
    sequence_hashes,
    whole_keys,
    within,
)

QUOTED = 20
"""Words of a match that are shown."""
EDITED = 0.5
"""Share of the words of question and answer that a training row with the same document must share to be the same row,
edited."""
CLASSES = {"document": "same document", "passage": "shared passage", "reference": "same answer"}
"""What a match is called, from the weakest on, by the field that is shared and no other; else it is a leak."""


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
        self.answers, self.answer_row = answer_keys(last), talks
        self.questions = question_keys(np.concatenate([each[:texts][of_user], joined[talks]]))
        self.question_row = np.concatenate([turn_row[of_user], talks])
        self.keys = np.concatenate(
            [self.questions, whole_keys(joined[talks], last), whole_keys(np.zeros_like(running), running)]
        )
        self.key_row = np.concatenate([self.question_row, talks, np.arange(rows)])

    def quote_answer(self, row: int) -> str:
        """Return the first words of a row's last turn."""
        return self._quoted(words(self._texts[self._units[row + 1] - 1])[: QUOTED + 1])

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
        return self._quoted(found)

    def _quoted(self, found: list[str]) -> str:
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
    """Which field; `passage` for less of a reference than `coverage`, `row` for several fields."""
    gram: int | None
    """The first n-gram of the longest run; None when the whole prompt or row is equal."""
    length: int

    @property
    def what(self) -> str:
        """What it is called in the ledger."""
        return CLASSES.get(self.kind, "leak")


class Matcher:
    """Looks training rows up in an index."""

    def __init__(self, index: Index, usual: Any, usual_prompts: Any) -> None:
        """Prepare the n-grams and keys of the index for look-ups.

        Args:
            usual: which n-grams of the index are boilerplate, bool [n-grams]. Words in them count on neither side.
            usual_prompts: hashes of whole prompts that count only together with their answer.
        """
        import numpy as np

        self.index = index
        starts = np.concatenate([[0], np.cumsum(index.field_words, dtype=np.int64)])
        self._field_starts = starts
        # Where the words of every n-gram begin, counted over all fields.
        at = np.arange(len(index.grams)) + index.gram_field * (N - 1)
        self._counting, self._left = _outside(at[usual], starts)
        # Questions and answers often quote their document: what they quote doesn't tell them from others on it.
        self._own_counting, self._own_left = _outside(at[usual | _quoting(index)], starts)
        used = np.flatnonzero(~usual & (self._left[index.gram_field] >= MIN_WORDS))
        used = used[np.argsort(index.grams[used], kind="stable")]
        self._unique, first = np.unique(index.grams[used], return_index=True)
        self._postings, self._bounds = at[used], np.append(first, len(used))

        telling = ~np.isin(index.questions, usual_prompts)
        keys = np.concatenate([index.questions[telling], index.wholes])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._key_row = np.concatenate([index.question_row[telling], index.whole_row])[order]

    def matches(self, batch: Batch, coverage: float, run: int) -> list[Match]:
        """Return the best match of every pair of rows that share at least so much, in the order of the batch."""
        best: dict[tuple[int, int], Match] = {}
        for match in (*self._equal(batch), *self._overlapping(batch, coverage, run)):
            pair = match.row, match.other
            if pair not in best or _strength(match) > _strength(best[pair]):
                best[pair] = match
        return [best[pair] for pair in sorted(best)]

    def same_answers(self, batch: Batch) -> Iterator[tuple[int, int]]:
        """Yield the rows of a batch whose whole answer a row of the index has, and the first such row."""
        import numpy as np

        found = np.isin(batch.answers, self.index.answers)
        keys, first = np.unique(self.index.answers, return_index=True)
        others = self.index.answer_row[first][np.searchsorted(keys, batch.answers[found])]
        yield from zip(batch.answer_row[found].tolist(), others.tolist(), strict=True)

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
        since = np.where(new_pair, position, np.maximum(position, before))
        of, each = field[starts], row[starts]
        covered = np.add.reduceat(counting[position + N] - counting[since], starts) / self._left[of]
        own = np.add.reduceat(self._own_counting[position + N] - self._own_counting[since], starts)
        runs = np.flatnonzero(new_pair | np.append(True, position[1:] != position[:-1] + 1))
        ends = position[np.append(runs[1:], len(position)) - 1] + N
        run_words = counting[ends] - counting[position[runs]]
        first_run = np.searchsorted(runs, starts)
        longest = np.maximum.reduceat(run_words, first_run)
        # Covered by short pieces alone, such as a name that comes up again and again, is not copied.
        copied = (covered >= coverage) & (longest >= MIN_WORDS) | (longest >= run)
        copied, same_row = self._with_documents(each, of, own, copied, coverage)
        for pair in np.flatnonzero(copied).tolist():
            mine = slice(first_run[pair], first_run[pair + 1] if pair + 1 < len(first_run) else None)
            chosen = first_run[pair] + int(np.argmax(run_words[mine]))
            begin, which = int(position[runs[chosen]]), int(of[pair])
            kind = KINDS[self.index.field_kind[which]]
            kind = "passage" if kind == "reference" and covered[pair] < coverage else kind
            yield Match(
                int(each[pair]),
                int(self.index.field_row[which]),
                float(covered[pair]),
                int(longest[pair]),
                "row" if same_row[pair] else kind,
                int(self.index.grams[begin - which * (N - 1)]),
                int(ends[chosen]) - begin,
            )

    def _with_documents(self, row: Any, field: Any, own: Any, copied: Any, coverage: float) -> tuple[Any, Any]:
        """Which pairs count where a document is shared, and which of those are the same row, perhaps edited.

        With the same document, a question or an answer counts by the words alone that are not in the document.

        Args:
            row, field, own, copied: of every pair of a training row and a field that share an n-gram; `own` is the
                number of shared words that are not in the document.
        """
        import numpy as np

        index, kind, other = self.index, self.index.field_kind, self.index.field_row
        telling = np.isin(kind, [KINDS.index("prompt"), KINDS.index("reference")])
        _, pair = np.unique(row * len(index) + other[field], return_inverse=True)
        document = copied & (kind[field] == KINDS.index("document"))
        with_document = np.bincount(pair, document)[pair] > 0
        quoted = telling[field] & with_document & (own < coverage * np.maximum(self._own_left[field], 1))
        copied = copied & ~quoted
        total = np.bincount(other[telling], self._own_left[telling], minlength=len(index))[other[field]]
        shared = np.bincount(pair, own * telling[field])[pair]
        answered = np.bincount(pair, copied & (kind[field] == KINDS.index("reference")))[pair] > 0
        return copied, document & (answered | (total >= N) & (shared >= EDITED * total))


def _outside(grams: Any, starts: Any) -> tuple[Any, Any]:
    """Up to every word, how many are in none of some n-grams; and how many are in none in every field.

    Args:
        grams: where the n-grams begin among the words of all fields.
        starts: where the fields begin.
    """
    import numpy as np

    covered = np.zeros(starts[-1] + 1, np.int64)
    np.add.at(covered, grams, 1)
    np.add.at(covered, grams + N, -1)
    counting = np.concatenate([[0], np.cumsum(np.cumsum(covered[:-1]) == 0)])
    return counting, counting[starts[1:]] - counting[starts[:-1]]


def _quoting(index: Index) -> Any:
    """Whether every n-gram of an index is in the document of its row, and not of the document itself."""
    import numpy as np

    with np.errstate(over="ignore"):
        of_row = index.grams ^ (index.field_row[index.gram_field].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    document = index.field_kind[index.gram_field] == KINDS.index("document")
    return ~document & np.isin(of_row, of_row[document])


def _strength(match: Match) -> tuple[int, float, int]:
    ranks = [*CLASSES.values(), "leak"]
    return ranks.index(match.what), match.coverage, match.run
