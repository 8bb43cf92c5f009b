"""The assignment of rows to batches, and batches as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ftp.lm.rendering import Tokens
from ftp.lm.torch_packing import pack, padded


class Batches:
    """Batches of row numbers; the order is a function of the seed and the epoch alone.

    A batch sampler for torch's DataLoader.

    Args:
        lengths: tokens of each row.
        alike: rows of like length in a batch, for batches that are padded: rows are drawn at random, and every fifty
            batches' worth of them sorted by length.
        repeats: how many times in a row each group of batches comes.
        group: batches that are repeated together, those of an optimizer step.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, alike: bool, repeats: int = 1, group: int = 1
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.alike = lengths, batch_size, seed, alike
        self.repeats, self.group = repeats, group
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
        groups = (once[at : at + self.group] for at in range(0, len(once), self.group))
        return [batch for group in groups for _ in range(self.repeats) for batch in group]

    def _once(self, epoch: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=draw).tolist()
        if not self.alike:
            return [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        chunk = 50 * self.batch_size
        batches = []
        for start in range(0, len(order), chunk):
            part = sorted(order[start : start + chunk], key=lambda row: -self.lengths[row])
            batches += [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
        return [batches[at] for at in torch.randperm(len(batches), generator=draw).tolist()]


def packed_batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate rows without padding: a Pack, the positions of states that predict a trained token, and those tokens.

    `at` and `targets` are int64 [N]; `tokens` counts all tokens.
    """
    packed = pack([row["input_ids"] for row in rows])
    at, targets, start = [], [], 0
    for row in rows:
        ids, trained = torch.as_tensor(row["input_ids"]), torch.as_tensor(row["trained"], dtype=torch.bool)
        places = trained[1:].nonzero()[:, 0]  # a token is predicted from the state before it
        at.append(start + places)
        targets.append(ids[1:][places])
        start += len(ids)
    found: dict[str, Any] = {"input_ids": packed.input_ids, "position_ids": packed.position_ids}
    return {**found, "lengths": packed.lengths, "at": torch.cat(at), "targets": torch.cat(targets), "tokens": start}


def padded_batch(rows: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Collate rows with padding: int64 tensors [rows, longest], padded on the right; `tokens` counts real ones."""
    ids, mask = padded([row["input_ids"] for row in rows], pad, side="right")
    labels, _ = padded([Tokens(row["input_ids"], row["trained"]).labels for row in rows], -100, side="right")
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "tokens": int(mask.sum())}


def trained_in(batch: Mapping[str, Any]) -> int:
    """Count the trained tokens of a batch."""
    if "targets" in batch:
        return len(batch["targets"])
    labels: torch.Tensor = batch["labels"]
    return int((labels[:, 1:] != -100).sum())
