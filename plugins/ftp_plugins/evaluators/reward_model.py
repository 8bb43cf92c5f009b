"""Scores answers by a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo

import ftp

if TYPE_CHECKING:
    from ftp_plugins.evaluators.torch_reward_model import LoadedReward

IN_A_RUN = ("model/reward_model", "model")
"""Where a run of the trainer `reward` keeps its model: an adapter with its head, or after full training all weights."""


def _local_directory(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of a directory beside the recipe; a hub id is returned unchanged."""
    local = Path((info.context or {}).get("directory", "."), Path(value).expanduser())
    return str(local) if local.is_dir() or value.startswith((".", "/", "~")) else value


class RewardModel(ftp.Evaluator):
    """The number that a reward model gives an answer; higher is better.

    A reward model is one for sequence classification with one output: from a run of the trainer `reward`, or any that
    transformers or peft can load. Its scale is its own, so figures of two reward models can't be compared.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "scipy")

    path: Annotated[str, Field(min_length=1), AfterValidator(_local_directory)]
    """A run directory, a directory with a model or an adapter, or a hub id."""
    batch_size: int = Field(default=8, ge=1)
    """Answers scored at once."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest prompt with answer, in tokens; a longer one has no score. Default: what the model takes."""

    def problems(self) -> list[str]:
        directory = Path(self.path)
        if not directory.is_absolute():
            return []
        if not directory.is_dir():
            return [f"path: {self.path}: no such directory"]
        if not any((self.place / name).is_file() for name in ("config.json", "adapter_config.json")):
            return [f"path: {self.path}: holds no finished run and no model"]
        return []

    @property
    def place(self) -> Path:
        """Where the model is: within a run, or the path itself."""
        directory = Path(self.path)
        if not (directory / "run.lock.json").is_file():
            return directory
        inside = [directory / name for name in IN_A_RUN]
        return next((place for place in inside if place.is_dir()), inside[-1])

    def files(self) -> Sequence[Path]:
        return sorted(self.place.glob("*.safetensors")) if Path(self.path).is_absolute() else ()

    def scores(self, examples: Sequence[ftp.Example], answers: Sequence[str]) -> list[ftp.Score]:
        """Score answers.

        Raises:
            ModelError: the model can't be loaded, or is no reward model.
        """
        found: list[ftp.Score] = []
        for start in range(0, len(answers), self.batch_size):
            part = slice(start, start + self.batch_size)
            found += self._loaded.scores(examples[part], answers[part])
        return found

    @cached_property
    def _loaded(self) -> LoadedReward:
        from ftp_plugins.evaluators.torch_reward_model import load_reward

        where = str(self.place) if Path(self.path).is_absolute() else self.path
        return load_reward(where, self.max_length)
