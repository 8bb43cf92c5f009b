"""Texts as hashed word n-grams, for comparing many of them.

The hashes are the same in every process and on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ftp.data.words import words

_MULTIPLIER = 0x9E3779B97F4A7C15
REMEMBERED_WORDS = 2_000_000


class _WordHashes(dict[str, int]):
    """Hash of each word seen so far; a look-up is ten times faster than hashing."""

    def __missing__(self, word: str) -> int:
        if len(self) >= REMEMBERED_WORDS:
            self.clear()
        found = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[word] = found
        return found


_hashes = _WordHashes()


def hash_words(texts: Sequence[str]) -> tuple[Any, Any]:
    """Return the words of every text as hashes.

    Returns:
        The hashes of all texts in a row, uint64, and where each text begins in them, int64 [texts + 1].
    """
    import numpy as np

    offsets = np.zeros(len(texts) + 1, np.int64)
    flat: list[int] = []
    for at, text in enumerate(texts, 1):
        flat.extend(map(_hashes.__getitem__, words(text)))
        offsets[at] = len(flat)
    return np.array(flat, np.uint64), offsets


def ngrams(hashes: Any, offsets: Any, n: int) -> tuple[Any, Any]:
    """Return the n-grams of every text, in order, as hashes.

    A text of fewer than n words has one, of all its words; a text without words has none.

    Args:
        hashes, offsets: from `hash_words`.

    Returns:
        The hashes of all texts in a row, uint64, and where each text begins in them, int64 [texts + 1].
    """
    import numpy as np

    multiplier = np.uint64(_MULTIPLIER)
    lengths = np.diff(offsets)
    counts = np.where(lengths >= n, lengths - n + 1, np.minimum(lengths, 1))
    starts = np.zeros(len(offsets), np.int64)
    np.cumsum(counts, out=starts[1:])
    # Where each n-gram begins among the words.
    first = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], counts)
    size = np.repeat(np.minimum(lengths, n), counts)
    found = np.zeros(len(first), np.uint64)
    padded = np.concatenate([hashes, np.zeros(n, np.uint64)])
    with np.errstate(over="ignore"):
        for k in range(n):
            found = np.where(size > k, found * multiplier + padded[first + k], found)
        # Without a last stir, the low bits of n-grams with the same last word would be too alike.
        found ^= found >> np.uint64(31)
        found *= np.uint64(0xBF58476D1CE4E5B9)
        found ^= found >> np.uint64(29)
    return found, starts
