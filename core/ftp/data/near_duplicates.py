"""Near duplicates among many texts: MinHash proposes pairs, the exact Jaccard similarity decides.

The similarity of two texts is that of their sets of word n-grams: the Jaccard similarity is the size of the
intersection over the size of the union (Broder 1997, On the resemblance and containment of documents). Comparing all
pairs is infeasible, so only texts that share a bucket of locality-sensitive hashing are compared (Leskovec, Rajaraman
& Ullman, Mining of Massive Datasets, ch. 3).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from ftp.data import shingles
from ftp.types import Example

NGRAM = 3
"""Words in an n-gram. Training rows are often a sentence or two, and one changed word changes n n-grams; the 5 that is
usual for web pages would miss most edits of such rows."""
RECALL = 0.999
"""Probability that a pair exactly at the threshold is proposed; a pair above it has a higher one."""
MAX_HASHES = 160
"""Maximum number of MinHash values per text. More would propose fewer pairs in vain, and cost more than those pairs
do."""

Part = Literal["whole", "prompt", "answer"]

_READ = 1024  # texts, so that the place of a text takes 10 bits
_HASH_BITS = 54
_PAIRS = 1_000_000  # compared together
BUCKET_PAIRS = 2_000_000  # compared in one bucket: all pairs of 2,000 sets
_ELEMENTS = 250_000  # n-grams of pairs compared together: they fit into a core's cache


def text_of(example: Example, part: Part) -> str:
    """Return the part of a row that is compared: all turns, those before the answer, or the answer.

    Running text is compared whole. System turns are left out if there are other turns: many rows share one, and a long
    one would make them all alike.
    """
    if not example.messages:
        return example.text
    turns = {"whole": example.messages, "prompt": example.messages[:-1], "answer": example.messages[-1:]}[part]
    turns = tuple(turn for turn in turns if turn.role != "system") or turns
    return "\n".join(f"{turn.content}\n{turn.tool_calls}" for turn in turns)


def distinct_sets(batches: Iterable[Sequence[str]], n: int) -> tuple[Any, Any]:
    """Return the distinct texts among many, and the set of word n-grams of each.

    Texts are the same when their words are (see `ftp.data.words`); without a word, when they are the same text.
    Takes 9 bytes for each n-gram of a text and 16 for each text.

    Returns:
        For each text the number of its distinct text, int64 [texts]; the sets as a `scipy.sparse.csr_array` of ones
        [distinct texts, 2**54], a column for each hash of an n-gram. Distinct texts count in the order they come in.
    """
    import numpy as np
    from scipy.sparse import csr_array

    digests: list[Any] = [np.zeros(0, np.uint64)]
    sizes: list[Any] = [np.zeros(0, np.int64)]
    hashes: list[Any] = [np.zeros(0, np.int64)]
    for batch in batches:
        for start in range(0, len(batch), _READ):
            texts = batch[start : start + _READ]
            words, offsets = shingles.hash_words(texts)
            digests.append(_digests(texts, words, offsets))
            grams, offsets = shingles.ngrams(words, offsets, n)
            # One sort of all of them: the place of the text above, the hash below.
            place = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(offsets))
            keys = place << np.uint64(_HASH_BITS) | grams >> np.uint64(64 - _HASH_BITS)
            keys.sort()
            keys = keys[_starts(keys)]
            hashes.append((keys & np.uint64(2**_HASH_BITS - 1)).view(np.int64))
            sizes.append(np.bincount((keys >> np.uint64(_HASH_BITS)).view(np.int64), minlength=len(texts)))

    _, first, number = np.unique(np.concatenate(digests), return_index=True, return_inverse=True)
    size: Any = np.concatenate(sizes)
    flat: Any = np.concatenate(hashes)
    hashes.clear()
    distinct = np.zeros(len(size), np.bool_)
    distinct[first] = True
    flat = flat[np.repeat(distinct, size)]
    ends = np.concatenate([[0], np.cumsum(size[distinct])])
    sets = csr_array((np.ones(len(flat), np.int8), flat, ends), shape=(len(first), 2**_HASH_BITS))
    return (np.cumsum(distinct) - 1)[first][number], sets


def _digests(texts: Sequence[str], words: Any, offsets: Any) -> Any:
    import numpy as np

    ends = offsets.tolist()
    spans = zip(texts, ends, ends[1:], strict=False)
    data = [words[a:b].tobytes() if b > a else text.encode("utf-8", "surrogatepass") for text, a, b in spans]
    return np.frombuffer(b"".join(hashlib.blake2b(part, digest_size=8).digest() for part in data), "<u8")


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """Return the number of bands and of rows in a band for MinHash; texts that agree on a whole band are compared.

    A pair of similarity s is proposed with probability 1 - (1 - s^rows)^bands. As many rows as MAX_HASHES allow, and
    as many bands as RECALL at the threshold needs: bands >= ln(1 - RECALL) / ln(1 - threshold^rows).
    """
    found = (1, 1)
    for rows in range(1, MAX_HASHES + 1):
        if threshold**rows == 1:
            break
        bands = math.ceil(math.log(1 - RECALL) / math.log1p(-(threshold**rows)))
        if bands * rows <= MAX_HASHES:
            found = bands, rows
    return found


def band_keys(sets: Any, threshold: float) -> Any:
    """Return the bucket of every set in every band, uint32 [sets, bands].

    Two sets that differ in a band fall into one bucket with a chance of 2^-32: one more pair compared in vain.
    """
    import numpy as np
    import rensa

    bands, rows = bands_and_rows(threshold)
    keys = np.empty((sets.shape[0], bands), np.uint32)
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    for start in range(0, len(keys), _READ):
        offsets = sets.indptr[start : start + _READ + 1].astype(np.uint64)
        flat = sets.indices[offsets[0] : offsets[-1]].view(np.uint64)
        values = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets - offsets[0], bands * rows, 1)
        minima = np.array(values.to_rows(), np.uint64).reshape(-1, bands, rows)
        key = np.zeros(minima.shape[:2], np.uint64)
        for row in range(rows):
            key = (key ^ minima[:, :, row]) * multiplier
        keys[start : start + _READ] = key >> np.uint64(32)
    return keys


def jaccard(sets: Any, left: Any, right: Any) -> Any:
    """Return the exact Jaccard similarity of pairs of sets; 0 for two empty ones.

    Args:
        sets: from `distinct_sets`.
        left, right: the numbers of the sets of each pair, int64 [pairs].

    Returns:
        float64 [pairs].
    """
    import numpy as np

    sizes = np.diff(sets.indptr)
    total = sizes[left] + sizes[right]
    common = np.empty(len(left), np.int64)
    for start, end in _slices(total, _ELEMENTS):
        common[start:end] = np.diff(sets[left[start:end]].multiply(sets[right[start:end]]).indptr)
    return common / np.maximum(total - common, 1)


def components(sets: Any, threshold: float) -> Any:
    """Which sets hang together: linked by a chain of pairs whose Jaccard similarity is at least `threshold`.

    Within a bucket only sets that don't hang together yet are compared, a few with all others first: a bucket of m near
    duplicates takes about m comparisons and not m²/2. Thousands of sets with a template in common that are not quite
    near each other would take them all, so their bucket is left after 2 million; those of them that are near share
    smaller buckets too, in other bands.

    Args:
        sets: from `distinct_sets`.

    Returns:
        For each set the lowest number among those it hangs together with, int64 [sets].
    """
    import numpy as np

    labels = np.arange(sets.shape[0])
    if threshold == 1:
        return labels
    keys, sizes = band_keys(sets, threshold), np.diff(sets.indptr)
    for band in range(keys.shape[1]):
        for left, right in _candidates(keys[:, band], sizes, labels):
            # No two sets can be more alike than their sizes. Those that shared an earlier bucket were compared there.
            worth = np.minimum(sizes[left], sizes[right]) / np.maximum(sizes[left], sizes[right]) >= threshold
            left, right = left[worth], right[worth]
            new = (keys[left, :band] != keys[right, :band]).all(axis=1)
            left, right = left[new], right[new]
            near = jaccard(sets, left, right) >= threshold
            join(labels, left[near], right[near])
    return labels


def _candidates(keys: Any, sizes: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of sets of one bucket with different labels; the caller may join them between batches.

    In each round some sets of every bucket are paired with all the others and are done; twice as many in the next.
    The sets of a bucket that is left early get keys of their own, so that `keys` says which pairs were compared.
    """
    import numpy as np

    rest, some = np.flatnonzero(sizes), 1
    while len(rest):
        key, label = keys[rest], labels[rest]
        order = np.lexsort((label, key))
        rest, key, label = rest[order], key[order], label[order]
        bucket, block = _starts(key), _starts(key) | _starts(label)
        bucket_end, block_end = _ends(bucket), _ends(block)
        place = np.arange(len(rest)) - np.flatnonzero(bucket)[np.cumsum(bucket) - 1]
        pairs = np.where(place < some, bucket_end - block_end, 0)
        for start, end in _slices(pairs, _PAIRS):
            count = pairs[start:end]
            left = np.repeat(np.arange(start, end), count)
            right = np.arange(len(left)) + np.repeat(block_end[start:end] - (np.cumsum(count) - count), count)
            if len(left):
                yield rest[left], rest[right]
        # A bucket whose sets all hang together has nothing more to say.
        mixed = np.logical_or.reduceat(bucket_end > block_end, np.flatnonzero(bucket))[np.cumsum(bucket) - 1]
        rest, size = (values[mixed & (place >= some)] for values in (rest, bucket_end - np.arange(len(rest)) + place))
        some *= 2
        left_early = rest[(some - 1) * size > BUCKET_PAIRS]
        keys[left_early] = left_early
        rest = rest[(some - 1) * size <= BUCKET_PAIRS]


def join(labels: Any, left: Any, right: Any) -> None:
    """Make the components of each pair one, in place, under the lower of their labels."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, ends = np.unique(np.concatenate([labels[left], labels[right]]), return_inverse=True)
    if not len(names):
        return
    edges = coo_array((np.ones(len(left), np.int8), (ends[: len(left)], ends[len(left) :])), (len(names), len(names)))
    _, part = connected_components(edges, directed=False)
    _, lowest = np.unique(part, return_index=True)
    renamed = np.arange(len(labels))
    renamed[names] = names[lowest[part]]
    labels[:] = renamed[labels]


def _starts(values: Any) -> Any:
    """Return where each run of equal values begins, bool [values]."""
    import numpy as np

    starts = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=starts[1:])
    return starts


def _ends(starts: Any) -> Any:
    """Return the end of each value's run."""
    import numpy as np

    return np.append(np.flatnonzero(starts)[1:], len(starts))[np.cumsum(starts) - 1]


def _slices(costs: Any, limit: int) -> Iterator[tuple[int, int]]:
    """Cut a row of costs into slices that cost about `limit` each."""
    import numpy as np

    done, start = np.cumsum(costs), 0
    while start < len(costs):
        before = done[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(done, before + limit, side="right")))
        yield start, end
        start = end
