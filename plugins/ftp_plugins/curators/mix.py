"""The mix of sources that is trained on."""

from __future__ import annotations

import dataclasses
import math
import random
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

import ftp
from ftp.errors import did_you_mean

if TYPE_CHECKING:
    from ftp.recipe import Recipe

NOT_DRAWN = "not drawn"
REPLAY_NOT_DRAWN = "replay row not drawn"
OVER_THE_CAP = "over the cap"


class Mix(ftp.Curator):
    """Samples rows so that the sources make up the given shares. No row is ever repeated.

    A few percent of general data in the mix (`replay: 5%`) reduces catastrophic forgetting (Scialom et al. 2022,
    arXiv:2205.12393). Sources are identified by their `name:`, or by their path or hub id as given in the recipe.
    """

    handles: ClassVar[tuple[str, ...]] = ("replay",)
    requires: ClassVar[tuple[str, ...]] = ("numpy", "pyarrow")

    replay: ftp.Share | None = None
    """Share of the final training rows that are replay, for example 5%. Each replay source contributes in proportion to
    its size; all domain rows are kept."""
    shares: dict[str, ftp.Share] | None = Field(default=None, min_length=1)
    """Share of the final training rows that each of these sources makes up, such as `{general: 5%, code: 10%}`. Sources
    that are not listed are kept whole; if all are listed, the shares must add up to 100%."""
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Weight of every source relative to the others, such as `{contracts: 3, general: 1}`. The mix is as large as
    possible: one source is kept whole."""
    temperature: float | None = Field(default=None, ge=1)
    """Weights every source by size^(1/temperature): 1 keeps all rows, higher values balance the sources (Conneau et al.
    2020, arXiv:1911.02116). The mix is as large as possible: the smallest source is kept whole."""
    cap: int | None = Field(default=None, ge=1)
    """Maximum number of rows of each source; applied before everything else."""
    seed: int = Field(default=0, ge=0)
    """Seed for sampling rows."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Mix:
        given = [name for name in ("replay", "shares", "weights", "temperature") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other; give one of them")
        if not given and self.cap is None:
            raise ValueError("has nothing to do; set replay, shares, weights, temperature or cap")
        if self.shares and math.fsum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {math.fsum(self.shares.values()):.2%}; 100% is the most")
        if self.weights and not any(self.weights.values()):
            raise ValueError("every weight is 0; no row would be left")
        return self

    def cross_problems(self, recipe: Recipe) -> list[str]:
        if self.replay is None or any(source.role == "replay" for _, source in recipe.data.sources()):
            return []
        return ["mixes replay rows and no source has `role: replay`"]

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        import numpy as np

        sources, of_row = _sources(corpus, by_role=self.replay is not None)
        draw = random.Random(self.seed)
        # What becomes of each row: 0, it stays; else its place among the reasons.
        fate = np.zeros(len(of_row), np.int32)
        reasons = [""]

        def keep(wanted: Mapping[int, int], reason: str) -> None:
            """Sample so many rows of each of these sources from those that are left."""
            for source, rows in wanted.items():
                left = np.flatnonzero((of_row == source) & (fate == 0))
                if rows == len(left):
                    continue
                chosen = np.zeros(len(left), bool)
                chosen[draw.sample(range(len(left)), rows)] = True
                fate[left[~chosen]] = len(reasons)
                origin = sources[source].origin
                reasons.append(f"{reason} ({origin}: {rows} of {len(left)} stay)" if origin else reason)

        sizes = dict(enumerate(np.bincount(of_row, minlength=len(sources)).tolist()))
        if self.cap is not None:
            sizes = {source: min(rows, self.cap) for source, rows in sizes.items()}
            keep(sizes, OVER_THE_CAP)
        if self.replay is not None:
            replay = {source: rows for source, rows in sizes.items() if sources[source].role == "replay"}
            keep(self._of_replay(replay, sum(sizes.values()) - sum(replay.values())), REPLAY_NOT_DRAWN)
        elif self.shares is not None:
            named = self._named(self.shares, sources)
            keep(self._of_shares(named, sizes, sources), NOT_DRAWN)
        elif self.weights is not None:
            named = self._named(self.weights, sources)
            missing = [sources[source].origin for source in sizes if source not in named]
            if missing:
                raise ftp.DataError([f"{self.used_as}: weights: every source needs one; missing: {', '.join(missing)}"])
            keep(_as_large_as_can_be(named, sizes), NOT_DRAWN)
        elif self.temperature is not None:
            keep(_as_large_as_can_be({s: n ** (1 / self.temperature) for s, n in sizes.items()}, sizes), NOT_DRAWN)

        row = 0
        for table in corpus.train.batches(["id"]):
            for id in table.column(0).to_pylist():
                if fate[row]:
                    ledger.drop(id, by=self.used_as, reason=reasons[fate[row]])
                row += 1
        return dataclasses.replace(corpus, train=corpus.train.take(array("q", np.flatnonzero(fate == 0).tobytes())))

    def _named(self, given: Mapping[str, float], sources: list[_Source]) -> dict[int, float]:
        """Return the values given for sources by name, by source."""
        origins = [source.origin for source in sources]
        found, problems = {}, []
        for name, value in given.items():
            origin = name if name in origins else str(Path(name))  # `./code.jsonl` is `code.jsonl` too
            if origin in origins:
                found.update({at: value for at, known in enumerate(origins) if known == origin})
            else:
                known = did_you_mean(name, origins)
                listed = "" if known.startswith("; known") else f"; known: {', '.join(sorted(origins))}"
                problems.append(f"{self.used_as}: no training row comes from a source called '{name}'{known}{listed}")
        if problems:
            raise ftp.DataError(problems)
        return found

    def _of_replay(self, sizes: Mapping[int, int], domain: int) -> dict[int, int]:
        assert self.replay is not None
        replay = sum(sizes.values())
        wanted = draws(domain, self.replay)
        if wanted > replay:
            raise ftp.DataError(
                [
                    f"{self.used_as}: a replay share of {self.replay:.2%} needs {wanted} replay rows and there are "
                    f"{replay}; rows are never repeated: add some, or ask for at most "
                    f"{largest_share(domain, replay):.2%}"
                ]
            )
        return in_proportion(sizes, wanted)

    def _of_shares(
        self, shares: Mapping[int, float], sizes: Mapping[int, int], sources: list[_Source]
    ) -> dict[int, int]:
        others = sum(rows for source, rows in sizes.items() if source not in shares)
        rest = 1 - math.fsum(shares.values())
        if not others:
            if rest > 1e-9:
                what = f"every source has a share and they add up to {1 - rest:.2%}"
                raise ftp.DataError([f"{self.used_as}: {what}; make it 100%, or leave out the source that stays whole"])
            return _as_large_as_can_be(shares, sizes)
        if rest <= 1e-9:
            whole = ", ".join(sorted({sources[source].origin for source in sizes if source not in shares}))
            what = f"the shares add up to 100% and leave nothing for {whole}, which would stay whole"
            raise ftp.DataError([f"{self.used_as}: {what}; lower them, or name every source"])
        wanted = {source: round(others * share / rest) for source, share in shares.items()}
        problems = [
            f"{self.used_as}: a share of {shares[source]:.2%} of {sources[source].origin} needs {rows} rows and there "
            f"are {sizes[source]}; rows are never repeated: add some, or ask for at most "
            f"{largest_share(others, sizes[source], rest + shares[source]):.2%}"
            for source, rows in wanted.items()
            if rows > sizes[source]
        ]
        if problems:
            raise ftp.DataError(problems)
        return wanted


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    origin: str
    role: str


def _sources(corpus: ftp.Corpus, by_role: bool) -> tuple[list[_Source], Any]:
    """Return the sources of the training rows, and for each row the index of its source, int32 [rows].

    Args:
        by_role: whether domain and replay rows of one name are two sources.
    """
    import numpy as np

    places: dict[_Source, int] = {}
    of_row = np.zeros(len(corpus.train), np.int32)
    row = 0
    for table in corpus.train.batches(["origin", "role"]):
        for origin, role in zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True):
            of_row[row] = places.setdefault(_Source(origin, role if by_role else ""), len(places))
            row += 1
    return list(places), of_row


def _as_large_as_can_be(weights: Mapping[int, float], sizes: Mapping[int, int]) -> dict[int, int]:
    """Return the number of rows of each source: the largest numbers whose ratios are those of the weights."""
    rows_a_weight = min(sizes[source] / weight for source, weight in weights.items() if weight > 0)
    return {source: min(sizes[source], round(rows_a_weight * weight)) for source, weight in weights.items()}


def in_proportion(sizes: Mapping[int, int], wanted: int) -> dict[int, int]:
    """Divide so many rows among sources by their sizes; what rounding leaves goes to the largest remainders."""
    total = sum(sizes.values())
    shares = {source: divmod(wanted * rows, total) for source, rows in sizes.items()}
    found = {source: whole for source, (whole, _) in shares.items()}
    by_remainder = sorted(shares, key=lambda source: -shares[source][1])
    for source in by_remainder[: wanted - sum(found.values())]:
        found[source] += 1
    return found


def draws(domain: int, share: float) -> int:
    """Return how many replay rows make up a share of the whole, given the number of domain rows."""
    return round(domain * share / (1 - share))


def largest_share(others: int, rows: int, room: float = 1.0) -> float:
    """Return the largest share that so many rows can make up, in whole hundredths of a percent.

    Args:
        others: the rows that stay whole.
        room: the part of the whole that this share and those others make up together.
    """
    share = math.floor(10_000 * room * rows / (others + rows)) / 10_000
    return min(share, 0.9999)
