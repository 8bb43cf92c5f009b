"""Exporters: the model of a run in the forms that other programs read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ftp.components.component import Component
from ftp.options import PLAIN_NAME, Proof
from ftp.types import Exported, FinishedRun, LoadedModel, LoadedTokenizer, Weights


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Everything an exporter needs."""

    run: FinishedRun
    directory: Path
    """To write into. It takes its place among the exports when all is written and compared."""
    load: Callable[[Weights], LoadedModel]
    """Load the model of the run; the exporter may change what it gets. Raise `ftp.ModelError` where that can't be."""
    base: Callable[[], LoadedModel]
    """Load the base model as it was loaded for training."""
    tokenizer: LoadedTokenizer
    """The run's tokenizer and the tokens that end an answer."""
    note: Callable[[str], None]
    """Tell the user something worth knowing."""


class Exporter(Component):
    """Writes the model of a run in a form that other programs load."""

    folder: Annotated[str, Field(pattern=PLAIN_NAME)] | None = None
    """The directory below the run's exports/. Default: the name of the format."""
    proof: Proof = Proof()
    """How the export is compared with the model of the run, and how far it may be from it."""

    @property
    def place(self) -> str:
        """Name of its directory below exports/."""
        return self.folder or self.used_as

    @property
    def weights(self) -> Weights:
        """Which model the export has to equal. With `original` it isn't the one that was evaluated, and says so."""
        return "trained"

    def usual_proof(self) -> Proof:
        """Return the bounds that hold where the recipe gives none."""
        return Proof(kl=1e-3, top1=0.99)

    def rehearse(self, base: LoadedModel, whole: bool) -> int:
        """Check on the base model, before anything is trained, that its trained form can be exported.

        Nothing is written and the model is left as it is.

        Args:
            base: the base model as it is loaded for training.
            whole: whether training leaves all weights, and not a part that goes on the base.

        Returns:
            Bytes of disk that the export takes at most, or 0 where that isn't known.

        Raises:
            ModelError: why it can't be exported.
        """
        return 0

    @abstractmethod
    def export(self, job: ExportJob) -> Path:
        """Write the export into `job.directory` and return its main file, or the directory."""

    @abstractmethod
    def reopen(self, job: ExportJob, path: Path) -> Exported:
        """Open the export with a program that people use it with, so that it can be compared with the run."""

    def finish(self, job: ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        """Write what depends on the comparison, such as a model card, beside the export.

        Args:
            path: what `export` returned, under its final name.
            record: what goes into export.json.
        """
