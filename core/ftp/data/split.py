"""Which rows belong together, and validation rows carved out of the training rows without tearing them apart."""

from __future__ import annotations

import random
from array import array
from typing import Any

from ftp.data import near_duplicates
from ftp.data.examples import Examples, decode
from ftp.data.ledger import Ledger


def groups_of(rows: Examples) -> array[int]:
    """Return the number of each row's group: the first row of that group. A row without one is a group of its own."""
    first: dict[str, int] = {}
    groups = array("q")
    for name in (name for table in rows.batches(["group"]) for name in table.column(0).to_pylist()):
        groups.append(first.setdefault(name, len(groups)) if name else len(groups))
    return groups


def alike(rows: Examples, threshold: float) -> Any:
    """Return for each row the number of the near duplicates it hangs together with, int64 [rows].

    Args:
        threshold: the Jaccard similarity of the sets of word 3-grams from which two rows are near duplicates.
    """
    texts = (
        [near_duplicates.text_of(example, "whole") for example in decode(table)]
        for table in rows.batches(["text", "messages"])
    )
    text, sets = near_duplicates.distinct_sets(texts, near_duplicates.NGRAM)
    return near_duplicates.components(sets, threshold)[text]


def together(*groupings: Any) -> Any:
    """Return groups of rows that hang together through any of several groupings, int [rows]."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(groupings[0])
    row, first = [], []
    for groups in groupings:
        _, of_group, number = np.unique(groups, return_index=True, return_inverse=True)
        row.append(np.arange(count))
        first.append(of_group[number])
    links = coo_array(
        (np.ones(count * len(row), np.int8), (np.concatenate(row), np.concatenate(first))), (count, count)
    )
    return connected_components(links, directed=False)[1]


def carve(
    rows: Examples, share: float, seed: int, ledger: Ledger, groups: Any | None = None
) -> tuple[Examples, Examples]:
    """Move a share of the domain rows into validation, the same share of every source, drawn with `seed`.

    Rows of one group stay together; a group with a replay row stays in training. At least one group goes to validation
    and at least one stays, where two groups have domain rows and one of them may move.

    Args:
        groups: for each row the number or name of its group; by default the example's own, see `groups_of`.

    Returns:
        The remaining training rows, and the validation rows.
    """
    import numpy as np

    if not share or not len(rows):
        return rows, rows.take([])
    origins: dict[str, int] = {}
    origin_of_row, domain_rows = array("i"), array("b")
    for table in rows.batches(["origin", "role"]):
        origin_of_row.extend(origins.setdefault(name, len(origins)) for name in table.column(0).to_pylist())
        domain_rows.extend(role == "domain" for role in table.column(1).to_pylist())
    domain = np.array(domain_rows, np.bool_)
    names = np.asarray(groups_of(rows) if groups is None else groups)
    _, first, group, sizes = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    origin = np.asarray(origin_of_row)[first]
    domain_sizes = np.bincount(group, domain, len(sizes))
    movable = np.flatnonzero(domain_sizes == sizes)
    if not len(movable) or np.count_nonzero(domain_sizes) < 2:
        return rows, rows.take([])

    chosen, count, wanted = np.zeros(len(sizes), np.bool_), 0, 0.0
    for name, number in origins.items():
        here = movable[origin[movable] == number]
        # In the order of their first rows, so that the draw doesn't depend on how the groups are called.
        here = here[np.argsort(first[here])]
        wanted += share * int(sizes[here].sum())  # carried over, so that many small sources together give their share
        order = random.Random(f"{seed} {name}").sample(range(len(here)), len(here))
        for at, size in zip(order, sizes[here[order]].tolist(), strict=True):
            # A group that would overshoot by more than it would fall short is left for training.
            if count + size / 2 <= wanted:
                chosen[here[at]] = True
                count += size
    if not count:
        chosen[movable[np.argmin(sizes[movable])]] = True
    if count == domain.sum():
        chosen[movable[np.argmax(sizes[movable])]] = False
    moved = chosen[group]
    validation = rows.take(np.flatnonzero(moved).tolist())
    for table in validation.batches(["id"]):
        for id in table.column(0).to_pylist():
            ledger.move(id, "validation")
    return rows.take(np.flatnonzero(~moved).tolist()), validation
