"""A validation split without leaks from the training rows."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.data.split import alike, carve, groups_of, together


class Split(ftp.Curator):
    """Splits validation rows off from the training rows: the same share of every source, drawn with `seed`.

    Rows of one group (the source's `group:` column), near duplicates, and all rows connected through either, go
    to the same side; if a replay row is among them, they stay in training.
    """

    requires: ClassVar[tuple[str, ...]] = ("numpy", "pyarrow", "scipy", "rensa", "regex", "icu4py")
    splits: ClassVar[bool] = True

    share: ftp.Share = Field(default=0.1, gt=0)
    """Share of the domain rows that become validation, for example 10%."""
    seed: int = Field(default=0, ge=0)
    """Seed for sampling rows."""
    near_duplicates: float | None = Field(default=0.8, ge=0.5, le=1)
    """Rows at least this similar (Jaccard of word 3-grams) stay together. 1: exact duplicates only. null: off."""

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        rows = corpus.train
        groups = groups_of(rows)
        if self.near_duplicates is not None:
            groups = together(groups, alike(rows, self.near_duplicates))
        train, validation = carve(rows, self.share, self.seed, ledger, groups)
        if len(corpus.validation):
            import pyarrow as pa

            validation = Examples(pa.concat_tables([*corpus.validation.batches(), *validation.batches()]))
        return dataclasses.replace(corpus, train=train, validation=validation)
