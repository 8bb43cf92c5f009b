"""The loader for standard Hugging Face models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles


def _local_directory(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of a directory beside the recipe; anything else is a hub id and returned unchanged."""
    local = Path((info.context or {}).get("directory", "."), Path(value).expanduser())
    return str(local) if local.is_dir() or value.startswith((".", "/", "~")) else value


class HuggingFace(HuggingFaceFiles):
    """A causal language model from the Hugging Face hub or from a local directory of safetensors."""

    id: Annotated[str, Field(min_length=1), AfterValidator(_local_directory)]
    """A hub id, or a directory (relative paths are resolved from the recipe)."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off: such a model is refused."""

    def problems(self) -> list[str]:
        directory = Path(self.id)
        if not directory.is_absolute():
            return []
        if not directory.is_dir():
            return [f"id: {self.id}: no such directory"]
        if not (directory / "config.json").is_file():
            return [f"id: {self.id}: no config.json in it, so it is not a Hugging Face model"]
        if self.revision is not None:
            return ["revision: is read for a model of the hub only; remove it"]
        return []

    def locate(self) -> ModelFiles:
        directory = Path(self.id)
        name = directory.name if directory.is_absolute() else self.id
        return ModelFiles(self.id, name, self.revision, self.trust_remote_code)

    def describe(self) -> ftp.ModelRequest:
        return dataclasses.replace(super().describe(), model=self.id)
