"""A training job without a run: what `ftp plan` and `ftp lr-find` measure on."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftp import allocator
from ftp.data import build_corpus
from ftp.evaluating import own_evals
from ftp.recipe import Recipe
from ftp.tokens import token_counter
from ftp.types import TrainingJob


@contextlib.contextmanager
def trial(
    recipe: Recipe,
    file: Path,
    stage: Callable[[str], Callable[[int], None]],
    event: Callable[[str, Mapping[str, Any]], None],
) -> Iterator[TrainingJob]:
    """The job that a run of this recipe would give its trainer: the same rows, model and first weights.

    What it writes lies in a directory for temporary files (TMPDIR) and goes when the block ends; there is no run, and
    no watcher sees anything.

    Args:
        file: the recipe's file; the ids of rows name files relative to its directory.
        stage: called with a title when something begins; returns what to call with the units done since last.
        event: called with the name and the values of every event.

    Raises:
        FtpError: rows or a model that can't be used, as in a run.
    """
    import transformers

    def emit(name: str, **values: Any) -> None:
        event(name, values)

    allocator.keep_large_blocks()
    with tempfile.TemporaryDirectory(prefix="ftp-") as name:
        place, home = Path(name), file.absolute().parent
        counter = token_counter(recipe.model)
        own = own_evals(recipe.evaluate)
        corpus, ledger = build_corpus(
            recipe.data, place / "data", home, recipe.seed, stage("Reading rows"), counter, own
        )
        stage("Loading the model")
        loaded = recipe.model.load(recipe.adapter.prepare(recipe.model.describe()))
        transformers.set_seed(recipe.seed)
        loaded = recipe.adapter.apply(loaded)
        for note in loaded.notes:
            emit("note", text=note)
        yield TrainingJob(loaded, corpus, ledger, place / "checkpoints", recipe.seed, emit)


def notes_only(event: Callable[[str, Mapping[str, Any]], None]) -> Callable[[str, Mapping[str, Any]], None]:
    """Hand on what the user should read and nothing else: a trial is no run to show the steps of."""

    def hand_on(name: str, values: Mapping[str, Any]) -> None:
        if name == "note":
            event(name, values)

    return hand_on
