"""Slices of a split, as datasets writes them: `train[:1%]`, `train[100:200]`, `train[-10%:]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

FORM = re.compile(r"(?P<name>[^\[\]+]*)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclass(frozen=True, slots=True)
class End:
    """An end of a slice: a number of rows, or of percent; negative ones count from the end."""

    value: int
    percent: bool

    def place(self, rows: int) -> int:
        """Return the row that it stands for, of so many.

        Percents are rounded to the closest row, as datasets does. Here -10% is 90%, so that [:90%] and [-10%:] never
        share a row, nor does a small share of few rows, rounded to none, become all of them.
        """
        if self.percent:
            return round((self.value % 100 if self.value < 0 else self.value) * rows / 100)
        return min(max(rows + self.value if self.value < 0 else self.value, 0), rows)


@dataclass(frozen=True, slots=True)
class Slice:
    """A split with the part of its rows that is meant."""

    name: str
    """`train` where none is given."""
    start: End | None = None
    stop: End | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it leaves nothing out."""
        return self.start is None and self.stop is None

    def bounds(self, count: Callable[[], int]) -> tuple[int, int | None]:
        """Return the first row and the one after the last, from 0; None for the end.

        Args:
            count: counts the rows; called only where the ends depend on their number.
        """
        ends = [end for end in (self.start, self.stop) if end is not None]
        if not any(end.percent or end.value < 0 for end in ends):
            return (self.start.value if self.start else 0), (self.stop.value if self.stop else None)
        rows = count()
        return (self.start.place(rows) if self.start else 0), (self.stop.place(rows) if self.stop else rows)


def parse_slice(text: str) -> Slice:
    """Return the slice that a text means.

    Raises:
        ValueError: it is none.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise ValueError("must be a split such as train, train[:1%] or train[100:200]")
    ends = [_end(found[name]) for name in ("start", "stop")]
    if len({end.percent for end in ends if end is not None}) > 1:
        raise ValueError("must have both ends in percent, or both in rows")
    return Slice(found["name"] or "train", *ends)


def problem_of_files(text: str) -> str:
    """Return what is wrong with this slice for files, which have no splits; empty for nothing."""
    slice = parse_slice(text)
    if slice.is_whole:
        return "applies only to a `hub:` source; remove it"
    rows = text.removeprefix(slice.name)
    return "" if slice.name == "train" else f"files have no split '{slice.name}'; write {rows}"


def known_slice(text: str) -> str:
    """Return the text unchanged.

    Raises:
        ValueError: it is no slice.
    """
    parse_slice(text)
    return text


def _end(text: str | None) -> End | None:
    if text is None:
        return None
    end = End(int(text.removesuffix("%")), text.endswith("%"))
    if end.percent and abs(end.value) > 100:
        raise ValueError("a percentage must be from -100% to 100%")
    return end


def overlap(one: Slice, other: Slice) -> bool:
    """Return whether two slices of the same split may share rows, whatever its length."""
    return not (_before(one.stop, other.start) or _before(other.stop, one.start))


def _before(stop: End | None, start: End | None) -> bool:
    """Return whether a slice that stops here certainly ends before one that starts there."""
    if stop is None or start is None or stop.percent != start.percent:
        return False
    ends = [end.value % 100 if end.percent and end.value < 0 else end.value for end in (stop, start)]
    return ends[0] <= ends[1] and (ends[0] < 0) == (ends[1] < 0)
