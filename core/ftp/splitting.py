"""Validation rows carved out of the training rows."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

from ftp.examples import Examples
from ftp.ledger import Ledger


def carve(
    rows: Examples, share: float, seed: int, ledger: Ledger, groups: Sequence[Hashable] | None = None
) -> tuple[Examples, Examples]:
    """Move a share of the domain rows into validation, the same share of every source, drawn with `seed`.

    Rows of one group go together. At least one row goes and at least one stays, where there are two groups.

    Args:
        groups: for each row its group; by default the example's own, each row without one being a group of its own.

    Returns:
        What is left to train on, and the rows for validation.
    """
    if groups is None:
        groups = [group or index for index, group in enumerate(rows.column("group"))]
    members: dict[Hashable, list[int]] = {}
    origin_of: dict[Hashable, str] = {}
    for index, (role, origin) in enumerate(zip(rows.column("role"), rows.column("origin"), strict=True)):
        if role == "domain":
            members.setdefault(groups[index], []).append(index)
            origin_of.setdefault(groups[index], origin)
    units: dict[str, list[Hashable]] = {}
    for group, origin in origin_of.items():
        units.setdefault(origin, []).append(group)

    chosen: set[int] = set()
    if not share or len(members) < 2:
        return rows, rows.take([])
    wanted, total = 0.0, sum(map(len, members.values()))
    for origin in units:
        size = sum(len(members[group]) for group in units[origin])
        wanted += share * size  # carried over, so that many small sources together give their share
        for group in random.Random(f"{seed} {origin}").sample(units[origin], len(units[origin])):
            # A group that would overshoot by more than it would fall short is left for training.
            if len(chosen) + len(members[group]) / 2 <= wanted:
                chosen.update(members[group])
    if not chosen:
        smallest = min(members.values(), key=len)
        chosen.update(smallest)
    if len(chosen) == total:
        largest = max(members.values(), key=len)
        chosen.difference_update(largest)
    validation = rows.take(sorted(chosen))
    for id in validation.column("id"):
        ledger.move(id, "validation")
    return rows.take([index for index in range(len(rows)) if index not in chosen]), validation
