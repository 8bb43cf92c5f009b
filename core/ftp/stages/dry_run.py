"""A training job without a run: what `ftp plan` and `ftp lr-find` measure on."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftp.components import TrainingJob
from ftp.recipe.model import Recipe
from ftp.stages.load_model import apply_adapter, load_base_model
from ftp.stages.prepare_data import prepare_data


@contextlib.contextmanager
def dry_run(
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

    def emit(name: str, **values: Any) -> None:
        event(name, values)

    def note(text: str) -> None:
        emit("note", text=text)

    with tempfile.TemporaryDirectory(prefix="ftp-") as name:
        place = Path(name)
        corpus, ledger = prepare_data(recipe, place / "data", file.absolute().parent, stage("Reading rows"))
        stage("Loading the model")
        loaded = apply_adapter(recipe, load_base_model(recipe.model, recipe.adapter, note), note)
        yield TrainingJob(loaded, corpus, ledger, place / "checkpoints", recipe.seed, emit)


def notes_only(event: Callable[[str, Mapping[str, Any]], None]) -> Callable[[str, Mapping[str, Any]], None]:
    """Hand on what the user should read and nothing else: a dry run is no run to show the steps of."""

    def hand_on(name: str, values: Mapping[str, Any]) -> None:
        if name == "note":
            event(name, values)

    return hand_on
