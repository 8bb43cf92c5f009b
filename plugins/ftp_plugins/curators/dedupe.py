"""Removal of duplicate training rows."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data import near_duplicates
from ftp.data.examples import decode


class Dedupe(ftp.Curator):
    """Removes duplicates among the training rows, within a source and across sources.

    Exact: the same words, ignoring case, spaces and punctuation. Near: the Jaccard similarity of the sets
    of word n-grams is at least `threshold`; MinHash finds the candidates, the exact similarity decides (Broder 1997;
    Lee et al. 2022, arXiv:2107.06499). System turns are not compared, since many rows share one.

    Of two duplicates, a domain row is kept before a replay row, then the one that `keep` prefers, then the earlier one.
    Rows are considered in that order, and a row is dropped only if it is a duplicate of a row that is kept. The ledger
    records that row and the similarity.
    """

    requires: ClassVar[tuple[str, ...]] = ("numpy", "scipy", "rensa", "regex", "icu4py")

    on: near_duplicates.Part = "whole"
    """What is compared: the whole row, the prompt (all turns before the answer) or the answer. Text has no parts."""
    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Similarity from which rows are near duplicates. 1: exact ones only."""
    ngram: int = Field(default=near_duplicates.NGRAM, ge=1, le=20)
    """Words in an n-gram. More is stricter: one changed word changes so many n-grams."""
    keep: Literal["longest", "first"] = "longest"
    """Which row to keep: the one with the most characters, or the first in the order of the sources."""

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        import numpy as np

        rows = corpus.train
        replay, length = array("b"), array("q")

        def texts() -> Iterator[list[str]]:
            for table in rows.batches(["role", "text", "messages"]):
                examples = decode(table)
                replay.extend(example.role != "domain" for example in examples)
                length.extend(len(e.text) + sum(len(turn.content) for turn in e.messages) for e in examples)
                yield [near_duplicates.text_of(example, self.on) for example in examples]

        text, sets = near_duplicates.distinct_sets(texts(), self.ngram)
        longest_first = -np.array(length) if self.keep == "longest" else np.zeros(len(rows))
        order = np.lexsort((longest_first, np.array(replay)))  # stable: the earlier row comes first
        _, at = np.unique(text[order], return_index=True)
        best = order[at]  # of the rows of each distinct text, the one to keep
        stands_for, score = nearest_kept(sets, at, near_duplicates.components(sets, self.threshold), self.threshold)

        kept_row, exact = best[stands_for[text]], stands_for[text] == text
        stays = kept_row == np.arange(len(rows))
        dropped = np.flatnonzero(~stays).tolist()
        ids, others = rows.take(dropped).column("id"), rows.take(kept_row[dropped].tolist()).column("id")
        for id, other, row in zip(ids, others, dropped, strict=True):
            what = "exact duplicate" if exact[row] else "near duplicate"
            ledger.drop(id, by=self.used_as, reason=what)
            ledger.find(id, self.used_as, what, other, float(score[text[row]]))
        return dataclasses.replace(corpus, train=rows.take(np.flatnonzero(stays).tolist()))


def nearest_kept(sets: Any, rank: Any, labels: Any, threshold: float) -> tuple[Any, Any]:
    """Choose greedily which sets to keep: in order of rank, each that is not near one already kept.

    Args:
        sets: from `near_duplicates.distinct_sets`.
        rank: the rank of each set, int64 [sets].
        labels: from `near_duplicates.components`; sets with different labels are not near.

    Returns:
        For each set the one that is kept in its place, or itself, int64 [sets]; their similarity, float64 [sets].
    """
    import numpy as np

    stands_for, score = np.arange(len(rank)), np.ones(len(rank))
    # In each round the first of those left of every component stays, and takes out those near it.
    rest = np.flatnonzero(np.bincount(labels, minlength=len(rank))[labels] > 1)
    rest = rest[np.lexsort((rank[rest], labels[rest]))]
    while len(rest):
        first = np.append(True, labels[rest[1:]] != labels[rest[:-1]])
        leader = rest[first][np.cumsum(first) - 1]
        leader, rest = leader[~first], rest[~first]
        similarity = near_duplicates.jaccard(sets, leader, rest)
        close = similarity >= threshold
        stands_for[rest[close]], score[rest[close]] = leader[close], similarity[close]
        rest = rest[~close]
    return stands_for, score
