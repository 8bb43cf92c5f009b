"""The assignment of rows to batches, and batches as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ftp.lm.prefixes import forest_of
from ftp.lm.rendering import Tokens
from ftp.lm.tokens import TokenRows
from ftp.lm.torch_packing import pack, pack_once, padded


class Batches:
    """Batches of row numbers; the order is a function of the seed and the epoch alone.

    A batch sampler for torch's DataLoader.

    Args:
        lengths: tokens of each row.
        alike: rows of like length in a batch, for batches that are padded: rows are drawn at random, and every fifty
            batches' worth of them sorted by length.
        groups: for each row the group with which it shares a prefix, or -1, for batches that compute it once: rows are
            drawn at random, and within fifty batches' worth of them a group follows its first row.
        repeats: how many times in a row each set of `together` batches comes.
        together: batches that are repeated as a whole, those of an optimizer step.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, alike: bool, groups: Sequence[int] | None = None,
        repeats: int = 1, together: int = 1,
    ) -> None:  # fmt: skip
        self.lengths, self.batch_size, self.seed, self.alike, self.groups = lengths, batch_size, seed, alike, groups
        self.repeats, self.together = repeats, together
        self.epoch = 0
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.repeats

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.of(self.epoch))

    def of(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch in order."""
        once = self._once(epoch)
        steps = (once[at : at + self.together] for at in range(0, len(once), self.together))
        return [batch for step in steps for _ in range(self.repeats) for batch in step]

    def _once(self, epoch: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=draw).tolist()
        if not self.alike and self.groups is None:
            return [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        chunk = 50 * self.batch_size
        batches = []
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            part = sorted(part, key=lambda row: -self.lengths[row]) if self.alike else self._grouped(part)
            batches += [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
        return [batches[at] for at in torch.randperm(len(batches), generator=draw).tolist()]

    def _grouped(self, rows: list[int]) -> list[int]:
        """Move the rows of a group behind the first of them."""
        assert self.groups is not None
        together: dict[Any, list[int]] = {}
        for row in rows:
            group = self.groups[row]
            together.setdefault((group, row if group < 0 else None), []).append(row)
        return [row for group in together.values() for row in group]


def shared_tokens(rows: TokenRows, batches: Sequence[list[int]]) -> int:
    """Count the tokens of an epoch that are computed together with those of another row of their batch.

    Estimated from 200 batches where there are more.
    """
    sample = batches[:: max(1, len(batches) // 200)]
    shared = total = 0
    for batch in sample:
        ids = [row.input_ids for row in rows.take(batch)]
        total += sum(map(len, ids))
        shared += sum(map(len, ids)) - sum(forest_of(ids).lengths)
    return round(shared * int(rows.lengths().sum()) / total) if shared else 0


def packed_batch(rows: Sequence[Mapping[str, Any]], once: bool = False) -> dict[str, Any]:
    """Collate rows without padding: a Pack, the positions of states that predict a trained token, and those tokens.

    `at` and `targets` are int64 [N]; `tokens` counts all tokens of the rows. Where a row has a `weight` other than 1,
    `weights`, float32 [N], are those of the targets.

    Args:
        once: compute tokens that several rows begin with once; the position of such a state then occurs once for each
            row that it predicts a token of.
    """
    ids = [torch.as_tensor(row["input_ids"], dtype=torch.int64) for row in rows]
    if once:
        packed, places = pack_once([row.tolist() for row in ids])
    else:
        packed, places = pack(ids), list(torch.split(torch.arange(sum(map(len, ids))), [len(row) for row in ids]))
    at, targets = [], []
    for row, tokens, place in zip(rows, ids, places, strict=True):
        trained = torch.as_tensor(row["trained"], dtype=torch.bool)[1:]
        at.append(place[:-1][trained])  # a token is predicted from the state before it
        targets.append(tokens[1:][trained])
    batch = {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "lengths": packed.lengths,
        "parents": packed.parents,
        "at": torch.cat(at),
        "targets": torch.cat(targets),
        "tokens": sum(map(len, ids)),
    }
    if any(row.get("weight", 1.0) != 1 for row in rows):
        parts = zip(rows, targets, strict=True)
        batch["weights"] = torch.cat([torch.full((len(own),), row.get("weight", 1.0)) for row, own in parts])
    return batch


def padded_batch(rows: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Collate rows with padding: int64 tensors [rows, longest], padded on the right; `tokens` counts real ones.

    Where a row has a `weight` other than 1, `weights` is float32 [rows].
    """
    ids, mask = padded([row["input_ids"] for row in rows], pad, side="right")
    labels, _ = padded([Tokens(row["input_ids"], row["trained"]).labels for row in rows], -100, side="right")
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "tokens": int(mask.sum())}
    if any(row.get("weight", 1.0) != 1 for row in rows):
        batch["weights"] = torch.tensor([row.get("weight", 1.0) for row in rows])
    return batch


def trained_in(batch: Mapping[str, Any]) -> int:
    """Count the trained tokens of a batch."""
    if "targets" in batch:
        return len(batch["targets"])
    labels: torch.Tensor = batch["labels"]
    return int((labels[:, 1:] != -100).sum())
