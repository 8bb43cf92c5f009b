"""Eval rows held out of the training rows: the same ones again when rows are added."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

from ftp.data import near_duplicates
from ftp.data.examples import Examples, decode
from ftp.data.ledger import Ledger
from ftp.data.split import alike, groups_of, together
from ftp.errors import DataError

ALIKE = 0.8
"""Similarity from which rows are near duplicates that stay together."""


def hold_out(rows: Examples, name: str, size: float | int, ledger: Ledger) -> tuple[Examples, Examples]:
    """Hold domain rows out of training for the eval set `name`.

    Each row has a number between 0 and 1 that follows from the name of the eval set and what the row says, or the name
    of its group. A share takes the rows whose number is below it: about that share of every source, with at least one
    of each that is large enough, and none of them changes sides when rows are added or put in another order. A number
    of rows takes the lowest numbers, as many of every source as its part of the rows; rows that are added may take the
    places of others. (Sampling by hash: Cormode & Duffield 2014, Sampling for big data, KDD tutorial.)

    Rows of one group, near duplicates, and whatever hangs together through either have one number, that of their
    lowest row, and go together; with a replay row among them they stay for training.

    Args:
        size: a share of the domain rows below 1, or a whole number of rows.

    Returns:
        What is left to train on, and the eval rows.

    Raises:
        DataError: so many rows are not there, or nothing would be left to train on.
    """
    import numpy as np

    if not len(rows):
        return rows, rows.take([])
    groups = together(groups_of(rows), alike(rows, ALIKE))
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    origins: dict[str, int] = {}
    origin = np.array([origins.setdefault(origin, len(origins)) for origin in rows.column("origin")])[first]
    domain = np.bincount(group, [role == "domain" for role in rows.column("role")], len(sizes))
    movable = np.flatnonzero(domain == sizes)
    numbers = np.ones(len(sizes))
    np.minimum.at(numbers, group, _numbers(rows, name))
    if isinstance(size, int):
        chosen = _so_many(movable, numbers, sizes, origin, size)
    else:
        chosen = _share(movable, numbers, sizes, origin, size)
    count, there = int(sizes[chosen].sum()), int(domain.sum())
    if not count or count == there or (isinstance(size, int) and size >= there):
        asked = f"{size} row{'s' if size > 1 else ''}" if isinstance(size, int) else f"{size:.4g} of the rows"
        what = f"{asked} can't be held out of {there} domain rows in {len(movable)} groups that may be moved"
        raise DataError([f"data.evals.{name}: {what}; some must stay to train on"])
    moved = np.isin(group, chosen)
    held = rows.take(np.flatnonzero(moved).tolist())
    for id in held.column("id"):
        ledger.hold_out(id, f"eval:{name}", by=f"evals.{name}")
    return rows.take(np.flatnonzero(~moved).tolist()), held


def _numbers(rows: Examples, name: str) -> list[float]:
    """Return for each row the number between 0 and 1 that it is drawn by.

    The name of a group stands for its rows, so that one that gets more rows stays on its side.
    """
    found: list[float] = []
    for table in rows.batches(["group", "text", "messages"]):
        for example in decode(table):
            text = unicodedata.normalize("NFC", near_duplicates.text_of(example, "whole"))
            key = f"group\0{example.group}" if example.group else f"row\0{' '.join(text.split())}"
            digest = hashlib.blake2b(f"{name}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
            found.append(int.from_bytes(digest, "big") / 2**64)
    return found


def _share(movable: Any, numbers: Any, sizes: Any, origin: Any, share: float) -> Any:
    """Return the groups whose number is below the share, and the lowest of a large source that has none."""
    import numpy as np

    chosen = movable[numbers[movable] < share]
    for source in np.unique(origin[movable]):
        here = movable[origin[movable] == source]
        if sizes[here].sum() * share >= 1 and not np.any(origin[chosen] == source):
            chosen = np.append(chosen, here[np.argmin(numbers[here])])
    if not len(chosen) and len(movable) > 1:
        chosen = movable[[np.argmin(numbers[movable])]]
    return chosen


def _so_many(movable: Any, numbers: Any, sizes: Any, origin: Any, count: int) -> Any:
    """Return the groups with the lowest numbers, so many rows in all, shared out among the sources by their rows."""
    import numpy as np

    total, taken, wanted = int(sizes[movable].sum()), 0, 0.0
    chosen: list[int] = []
    for source in np.unique(origin[movable]):
        here = movable[origin[movable] == source]
        wanted += count * int(sizes[here].sum()) / max(total, 1)
        for group in here[np.argsort(numbers[here], kind="stable")].tolist():
            # A group that would overshoot by more than it would fall short is left for training.
            if taken + sizes[group] / 2 <= wanted:
                chosen.append(group)
                taken += int(sizes[group])
    return np.array(chosen, np.int64)
