"""Text that many rows have and that is therefore no evidence of a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftp.data.examples import Examples
from ftp_plugins.curators.entries import KINDS
from ftp_plugins.curators.matching import Batch
from ftp_plugins.curators.ngram_index import Index, N

USUAL = 0.01
"""Share of the training and validation rows beyond which n-grams don't count; at least five rows."""
USUAL_IN_EVALS = 10
"""Rows of an eval set beyond which n-grams don't count; in a small set 5%, and at least three rows."""
DOCUMENT = 0.2
"""Share of the rows on either side beyond which a document is an instruction that every prompt has; at least five rows.
Rows may well share a document."""
DOCUMENT_IN_EVALS = 50
"""Rows of an eval set beyond which it is, however large the set."""
SAMPLE = 4000
"""Training rows that are looked at, and as many validation rows."""
BOTH = 2
"""Rows of an eval set, and of the training and validation rows that are looked at, from which passages of answers don't
count."""
PASSAGE = 12
"""Words of a passage; less is a turn of phrase."""


class Boilerplate:
    """The n-grams and prompts that many rows have, seen on a sample of training and validation rows."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        import numpy as np

        grams, gram_rows, questions, question_rows = ([np.empty(0, of)] for of in ("u8", "i8", "u8", "i8"))
        rows = 0
        for part in parts:
            for table in sample(part, SAMPLE).batches(Batch.COLUMNS):
                batch = Batch(table)
                grams.append(batch.grams)
                gram_rows.append(batch.gram_row + rows)
                questions.append(batch.questions)
                question_rows.append(batch.question_row + rows)
                rows += len(batch.ids)
        limit = max(5, USUAL * rows)
        flat, of_row = np.concatenate(grams), np.concatenate(gram_rows)
        usual_questions = common(np.concatenate(questions), np.concatenate(question_rows), limit)
        self._usual = np.concatenate([common(flat, of_row, limit), usual_questions])
        self._seen = common(flat, of_row, BOTH - 1)
        self._instructions = common(flat, of_row, max(5, DOCUMENT * rows))

    def of_prompts(self, index: Index) -> Any:
        """Return the hashes of n-grams and whole prompts that don't count when prompts are compared with an index.

        In a large index it is a number of its rows and not a share: what eleven rows have tells none of them apart, and
        every row that has it would have to be looked at.
        """
        import numpy as np

        limit = min(max(3, 0.05 * len(index)), USUAL_IN_EVALS)
        grams = common(index.grams, index.field_row[index.gram_field], limit)
        return np.concatenate([self._usual, grams, common(index.questions, index.question_row, limit)])

    def among(self, index: Index) -> Any:
        """Return whether each n-gram of an index is boilerplate, bool [n-grams]: it depends on the field it is in."""
        import numpy as np

        grams, row = index.grams, index.field_row[index.gram_field]
        kind = index.field_kind[index.gram_field]
        answer, document = (kind == KINDS.index(name) for name in ("reference", "document"))
        limit = min(max(5, DOCUMENT * len(index)), DOCUMENT_IN_EVALS)
        instructions = np.concatenate([self._instructions, common(grams, row, limit)])
        in_both = np.intersect1d(common(grams[answer], row[answer], BOTH - 1), self._seen)
        passages = _long_runs(answer & np.isin(grams, in_both), index.gram_field)
        usual = np.isin(grams, self.of_prompts(index)) | passages
        return np.where(document, np.isin(grams, instructions), usual)


def _long_runs(marked: Any, field: Any) -> Any:
    """Return the marked n-grams among at least PASSAGE words in a row."""
    import numpy as np

    starts = np.flatnonzero(np.append(True, (marked[1:] != marked[:-1]) | (field[1:] != field[:-1]))[: len(marked)])
    lengths = np.diff(np.append(starts, len(marked)))
    return marked & np.repeat(lengths > PASSAGE - N, lengths)


def sample(rows: Examples, at_most: int) -> Examples:
    """Return some of the rows, from all over."""
    return rows[:: max(1, -(-len(rows) // at_most))]


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
