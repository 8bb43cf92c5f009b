"""The data stage on its own: what a run would train on and the fate of every row, without a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftp.cache import forget_unused, user_cache
from ftp.data.examples import Corpus, Examples
from ftp.data.ledger import Ledger
from ftp.files import digest
from ftp.plugins import Plugins
from ftp.provenance.fingerprints import fingerprints
from ftp.recipe.model import Recipe
from ftp.stages.own_evals import bring_evals
from ftp.stages.prepare_data import prepare_data, read_prepared
from ftp.stages.tokenise_rows import tokenise_rows
from ftp.types import Example

READS = ("data", "train", "model", "seed")
"""The parts of a recipe that the data stage depends on, besides the evaluators that bring eval sets."""


@dataclass(frozen=True)
class Preview:
    """The rows of a recipe as they would be in its run."""

    directory: Path
    corpus: Corpus
    ledger: Ledger

    def parts(self) -> Iterator[tuple[str, Examples]]:
        """Return the remaining rows by split."""
        yield "train", self.corpus.train
        yield "validation", self.corpus.validation
        for name, examples in self.corpus.evals.items():
            yield f"eval:{name}", examples

    def find(self, id: str) -> tuple[str, Example] | None:
        """Return a remaining row and its split, by its id."""
        for split, examples in self.parts():
            ids = examples.column("id")
            if id in ids:
                return split, examples[ids.index(id)]
        return None


def prepare_preview(
    recipe: Recipe, plugins: Plugins, file: Path, progress: Callable[[str], Callable[[int], None]]
) -> Preview:
    """Run the data stage of a recipe, or take its result from the cache if it ran on the same inputs.

    Args:
        file: the recipe's file; the ids of rows name files relative to its directory.
        progress: called with the title of each stage; returns a function to call with the rows done since the last
        call.

    Raises:
        DataError: rows that can't be used, or that can't be trained on.
    """
    lock = fingerprints(recipe, plugins, with_model=False)
    inputs = [{part: lock["recipe"][part] for part in READS}, lock["data"], lock["packages"], lock["plugins"]]
    blocks = zip(recipe.evaluate, lock["recipe"]["evaluate"], strict=True)
    inputs.append([block for evaluator, block in blocks if evaluator.on_its_own])
    own = bring_evals(recipe.evaluate)
    cache = user_cache("data-preview")
    place = cache / digest([*inputs, str(file.absolute().parent)])
    if not (place / "ledger.parquet").is_file():
        forget_unused(cache)
        shutil.rmtree(place, ignore_errors=True)
        home, advance = file.absolute().parent, progress("Reading and curating rows")
        corpus, ledger = prepare_data(recipe, place, home, advance, own)
        before = ledger
        ledger, _ = tokenise_rows(recipe, corpus, before, lambda title, rows: progress(title))
        if ledger is not before:
            ledger.step(recipe.train.used_as)
        ledger.write(place / "ledger.parquet")  # the last file: with it the others are there
    os.utime(place)
    corpus = read_prepared(place, (*recipe.data.evals, *own))
    return Preview(place, corpus, Ledger.read(place / "ledger.parquet"))
