"""One process's share of the batches that all processes train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ftp_plugins.speed.torch_batches import Batches


class Shares:
    """The batches of one process: of the rows of every optimizer step, which are planned for all, its share by tokens.

    A batch sampler for torch's DataLoader. A share can be empty.

    Args:
        batches: of one process alone.
        accumulated: how many of them are an optimizer step.
        rank, count: number of this process, and of all.
    """

    def __init__(self, batches: Batches, accumulated: int, rank: int, count: int) -> None:
        self.batches, self.accumulated, self.rank, self.count = batches, accumulated, rank, count
        self.at_once = -(-accumulated // count)
        """Batches of this process in an optimizer step."""
        self.rows_at_once = -(-batches.batch_size * accumulated // (count * self.at_once))
        """Rows of such a batch where all are of one length."""
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.batches) // self.accumulated) * self.at_once

    def __iter__(self) -> Iterator[list[int]]:
        planned, lengths = list(self.batches), self.batches.lengths
        for start in range(0, len(planned), self.accumulated):
            rows = [row for batch in planned[start : start + self.accumulated] for row in batch]
            yield from dealt(dealt(rows, lengths, self.count)[self.rank], lengths, self.at_once)


def dealt(rows: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Deal rows into `count` lists of nearly equally many tokens; in each list they keep their order.

    The longest row first, each to the list with the fewest tokens so far (Graham 1969, SIAM J. Appl. Math. 17:416).
    """
    tokens, owners = [0] * count, dict[int, int]()
    for at in sorted(range(len(rows)), key=lambda at: -lengths[rows[at]]):
        owners[at] = min(range(count), key=lambda share: (tokens[share], share))
        tokens[owners[at]] += lengths[rows[at]]
    return [[row for at, row in enumerate(rows) if owners[at] == share] for share in range(count)]


def empty_batch() -> dict[str, Any]:
    """Return the batch of a process without a row in it."""
    return {"no_rows": torch.tensor(True), "tokens": 0}


def is_empty(batch: Mapping[str, Any]) -> bool:
    """Return whether a batch is an `empty_batch`."""
    return "no_rows" in batch
