"""Loaders and adapters: a base model in memory, and which of its weights train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ftp.components.component import Component, defines
from ftp.types import LoadedModel, LoadedTokenizer, ModelRequest


class Loader(Component):
    """Loads a base model and its tokenizer into memory."""

    def describe(self) -> ModelRequest:
        """Describe the model that would be loaded, from configuration files only; read no weights."""
        return ModelRequest(model=type(self).__name__)

    def files(self) -> Sequence[Path]:
        """Return the files it reads besides those of the fingerprint. If one of them changes, it is another run."""
        return ()

    def fingerprint(self) -> str:
        """Identify the files that would be loaded, by their content; empty where that can't be told before the load.

        A run with another fingerprint is another run. Asked for at the beginning of every one, so it has to be quick.
        """
        return ""

    def lineage(self) -> Mapping[str, Any]:
        """Return which earlier run the model is from, for the lock and the reports; empty for one from elsewhere.

        Returns:
            `run` (its id), `name`, `lock` (SHA-256 of its lock), `fingerprint`, `base` (name of its base model), and
            `parent`, the same of the run that it was made from in turn.
        """
        return {}

    @abstractmethod
    def load(self, request: ModelRequest) -> LoadedModel:
        """Load the weights as `request` asks (dtype, quantization). Raise `ftp.ModelError` where that is impossible."""


class LoadsTokenizer(ABC):
    """Mix-in for a loader that can load its tokenizer without weights. A loader that defines the method counts, too."""

    @abstractmethod
    def load_tokenizer(self) -> LoadedTokenizer | None:
        """Return the tokenizer, so that rows can be tokenised and counted before any weights are loaded.

        Return None where these options don't allow it; tokens are then counted only once the model is loaded.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return defines(other, "load_tokenizer") if cls is LoadsTokenizer else NotImplemented


class LoadsStructure(ABC):
    """Mix-in for a loader that can build its model without weights. A loader that defines the method counts, too."""

    @abstractmethod
    def load_structure(self, request: ModelRequest) -> LoadedModel:
        """Return the model on torch's meta device, with its tokenizer: modules, shapes and types, and no numbers."""

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return defines(other, "load_structure") if cls is LoadsStructure else NotImplemented


class Adapter(Component):
    """Decides which weights train."""

    saves_whole_model: ClassVar[bool] = False
    """Whether `save` writes all weights, and not a part that goes on the base model."""
    learning_rates: ClassVar[tuple[float, float] | None] = None
    """The usual range of peak learning rates, or None where it isn't known. `ftp check` warns of a rate outside it."""

    def update_scale(self) -> tuple[float, str]:
        """Return the factor by which these options scale the effect of the learning rate, and the reason in words.

        With a factor of 2 the same rate moves the weights twice as far as usual. Return 1 and an empty string where the
        options change nothing.
        """
        return 1.0, ""

    def prepare(self, request: ModelRequest) -> ModelRequest:
        """Return the request changed to what this adapter needs. Loads nothing.

        Raise `ftp.ModelError` when the model and the adapter can't work together.
        """
        return request

    @abstractmethod
    def apply(self, loaded: LoadedModel) -> LoadedModel:
        """Return the model with its trainable weights in place and all others frozen.

        Notes added to the model's notes are shown to the user.
        """

    def save(self, loaded: LoadedModel, directory: Path) -> None:
        """Write the trained weights into `directory` as safetensors, so that they can be loaded onto the base model."""
        loaded.model.save_pretrained(directory, safe_serialization=True)

    def can_restore(self, directory: Path) -> bool:
        """Return whether `directory` holds weights that `save` wrote and `restore` can read, not a whole model."""
        return type(self).restore is not Adapter.restore and not (directory / "config.json").is_file()

    def restore(self, loaded: LoadedModel, directory: Path) -> LoadedModel | None:
        """Return the model with the trained weights saved in `directory`, to resume after an interruption.

        Return None where this adapter can't; the training is then repeated.
        """
        return None
