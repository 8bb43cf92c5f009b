"""General data mixed in against forgetting."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import ClassVar

from pydantic import Field

import ftp


class Mix(ftp.Curator):
    """Replay: keeps just enough general rows to make up a share of the final training rows.

    A few percent of general data in the mix holds off catastrophic forgetting (Scialom et al. 2022, arXiv:2205.12393).
    """

    handles: ClassVar[tuple[str, ...]] = ("replay",)

    replay: ftp.Share
    """Share of the final training rows that are replay, for example 5%."""
    seed: int = Field(default=0, ge=0)
    """Which replay rows are drawn."""

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        roles = corpus.train.column("role")
        replay = [index for index, role in enumerate(roles) if role == "replay"]
        domain = len(roles) - len(replay)
        wanted = draws(domain, self.replay)
        if wanted > len(replay):
            raise ftp.DataError(
                [
                    f"{self.used_as}: a replay share of {self.replay:.2%} needs {wanted} replay rows and there are "
                    f"{len(replay)}; rows are never repeated: add some, or ask for at most "
                    f"{largest_share(domain, len(replay)):.2%}"
                ]
            )
        chosen = set(random.Random(self.seed).sample(replay, wanted))
        for index, id in enumerate(corpus.train.column("id")):
            if roles[index] == "replay" and index not in chosen:
                ledger.drop(id, by=self.used_as, reason="replay row not drawn")
        keep = [index for index, role in enumerate(roles) if role != "replay" or index in chosen]
        return dataclasses.replace(corpus, train=corpus.train.take(keep))


def draws(domain: int, share: float) -> int:
    """How many replay rows make up a share of the whole beside so many domain rows."""
    return round(domain * share / (1 - share))


def largest_share(domain: int, replay: int) -> float:
    """The largest share that so many replay rows are enough for, in whole hundredths of a percent."""
    share = math.floor(10_000 * replay / (domain + replay)) / 10_000
    return min(share, 0.9999)
