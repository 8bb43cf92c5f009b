"""Engines: who answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import PrivateAttr

from ftp.components.component import Component
from ftp.errors import ModelError
from ftp.options import AnswerOptions, Decoding
from ftp.types import Answer, Example, LoadedModel, TokenLoss


def _nobody(what: Any, **values: Any) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What an engine works with: set by the pipeline, never by a recipe."""

    model: LoadedModel | None = None
    """The model that answers; None for an engine with a model of its own."""
    directory: Path | None = None
    """The run directory, for the records of an engine that calls a service; None outside a run."""
    who: str = ""
    """Whose answers they are: `base`, `tuned` or the name under `against:`."""
    evals: str = ""
    """The eval set that is answered."""
    progress: Callable[[int], None] = _nobody
    """Called with the number of answers done since its last call."""
    note: Callable[[str], object] = _nobody
    """Called with each message for the user."""
    emit: Callable[..., object] = _nobody
    """Called with the name and the values of each event, which is written to events.jsonl."""


class Engine(Component, Decoding):
    """Answers prompts, with a model that the pipeline has loaded or with one of its own."""

    by_default: ClassVar[bool] = False
    """Whether it answers in a recipe whose `answers:` block names no engine."""
    own_model: ClassVar[bool] = False
    """Whether it has a model of its own, such as one on a server. It can then stand under `against:`; one without
    answers for the models that the pipeline has loaded."""

    _work: EngineWork = PrivateAttr(default=EngineWork())

    @property
    def work(self) -> EngineWork:
        """The model to answer with, and whom to tell."""
        return self._work

    def at_work(self, work: EngineWork) -> Self:
        """Return the same engine with this `work`."""
        engine = self.model_copy()
        engine._work = work
        return engine

    @property
    def options(self) -> AnswerOptions:
        """How this engine answers, as `answer` takes it."""
        fields = {name for name in AnswerOptions.model_fields if name in type(self).model_fields}
        return AnswerOptions.model_construct(**{name: getattr(self, name) for name in sorted(fields)})

    def fingerprint(self) -> str | None:
        """Return what the answers of an engine with a model of its own depend on, besides its options.

        None where that isn't known: its answers are then kept for the run and not for other runs.
        """
        return None

    @abstractmethod
    def answer(self, prompts: Sequence[Example], options: AnswerOptions) -> Sequence[Answer]:
        """Answer the prompt of every example.

        Returns:
            `options.samples` answers to each prompt, those to one prompt beside one another: an answer for every
            prompt, in the order of the prompts, where there is one sample.

        Raises:
            ModelError: the prompts can't be answered.
        """

    def sample(self, prompts: Sequence[Example], options: AnswerOptions) -> Sequence[Sequence[int]]:
        """Return the token ids of `options.samples` answers to each prompt, those to one prompt beside one another.

        The token that ended an answer is the last of it. A trainer learns from these: text read again by the tokenizer
        need not be the tokens that the model drew.

        Raises:
            ModelError: this engine doesn't know the tokens of its answers.
        """
        raise ModelError(
            f"the engine '{self.used_as}' doesn't give the tokens of its answers, so nothing trains on them"
        )

    def losses(self, examples: Sequence[Example]) -> Sequence[TokenLoss] | None:
        """Return the loss on the reference of every example; None for an engine that can't tell.

        Asked only of an engine with a model of its own: the pipeline measures those that it has loaded.
        """
        return None
