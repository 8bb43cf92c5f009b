"""A training job without a run, on which `ftp plan` and `ftp lr-find` measure."""

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
from ftp.stages.tokenise_rows import tokenise_rows


@contextlib.contextmanager
def dry_run(
    recipe: Recipe,
    file: Path,
    stage: Callable[[str], Callable[[int], None]],
    event: Callable[[str, Mapping[str, Any]], None],
) -> Iterator[TrainingJob]:
    """Yield the job that a run of this recipe would give its trainer: the same rows, model and initial weights.

    Its files are in a temporary directory (TMPDIR) that is deleted when the block ends. There is no run directory, and
    watchers see no events.

    Args:
        file: the recipe's file; the ids of rows name files relative to its directory.
        stage: called with the title of each stage; returns a function to call with the units done since the last call.
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
        if spelled := tokenise_rows(recipe, corpus, ledger, lambda title, rows: stage(title))[1]:
            note(spelled)
        stage("Loading the model")
        loaded = apply_adapter(recipe, load_base_model(recipe.model, recipe.adapter, note), note)
        yield TrainingJob(loaded, corpus, ledger, place / "checkpoints", recipe.seed, emit)


def notes_only(event: Callable[[str, Mapping[str, Any]], None]) -> Callable[[str, Mapping[str, Any]], None]:
    """Return an event handler that passes on notes only; the steps of a dry run are not shown."""

    def hand_on(name: str, values: Mapping[str, Any]) -> None:
        if name == "note":
            event(name, values)

    return hand_on
