"""Examples that are not independent of each other: what makes a cluster."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftp.types import Example

PASSAGE = 30
"""Words from which a paragraph of a prompt is a passage that its question is about."""


def clusters_of(examples: Sequence[Example]) -> list[str] | None:
    """Return what `clusters` takes: for each example the name of its cluster; None where every one is by itself.

    Where the rows have groups (`group:` in the recipe) those are the clusters, and an example without a group is one by
    itself. Else examples belong together, directly or through others, when

    - their prompts are the same, but for case and blanks; or
    - they share the passage that they are about: an identical paragraph of 30 words or more that makes up more than
      half of each of the prompts. System turns don't count, nor does a paragraph that more than half of the examples
      carry: that is an instruction, not a document.

    Prompts that are only alike, or passages that overlap in part, are not found: give such rows a group.
    """
    if any(example.group for example in examples):
        return [
            f"group {example.group}" if example.group else f"row {example.id or row}"
            for row, example in enumerate(examples)
        ]
    prompts = [_paragraphs(example) for example in examples]
    carried = Counter(part for parts in prompts for part in set(parts))
    rows: dict[str, list[int]] = defaultdict(list)
    for row, parts in enumerate(prompts):
        for key in _shared(parts, carried, len(examples)):
            rows[key].append(row)
    names = _joined(len(examples), list(rows.values()))
    return [f"like row {first}" for first in names] if len(set(names)) < len(names) else None


def _paragraphs(example: Example) -> list[str]:
    turns = [turn.content for turn in example.prompt if turn.role != "system"]
    return [" ".join(part.casefold().split()) for turn in turns for part in turn.splitlines() if part.strip()]


def _shared(parts: Sequence[str], carried: Counter[str], examples: int) -> Iterator[str]:
    """Yield what an example may have in common with others: its whole prompt, and the passage that is most of it."""
    if not parts:
        return
    yield "\n".join(parts)
    words = [len(part.split()) for part in parts]
    for part, count in zip(parts, words, strict=True):
        if count >= PASSAGE and 2 * count > sum(words) and 2 * carried[part] <= examples:
            yield f"passage {part}"


def _joined(count: int, together: Sequence[Sequence[int]]) -> list[int]:
    """Return for each of `count` rows the first row that it is connected with."""
    first = list(range(count))

    def root(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = first[row]
        return row

    for rows in together:
        for row in rows[1:]:
            one, other = sorted((root(rows[0]), root(row)))
            first[other] = one
    return [root(row) for row in range(count)]
