"""The loader for standard Hugging Face models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles

LONGEST_ID = 4096


def _local_directory(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of a directory beside the recipe; anything else is a hub id and returned unchanged."""
    if len(value) > LONGEST_ID:
        raise ValueError(f"a hub id or a path has {LONGEST_ID} characters at most")
    try:
        local = Path((info.context or {}).get("directory", "."), Path(value).expanduser())
        return str(local) if local.is_dir() or value.startswith((".", "/", "~")) else value
    except RuntimeError:
        raise ValueError("the home directory of this user is not known; write the whole path") from None
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None


class HuggingFace(HuggingFaceFiles):
    """A causal language model from the Hugging Face hub or from a local directory of safetensors."""

    id: Annotated[str, Field(min_length=1), AfterValidator(_local_directory)]
    """A hub id, or a directory (relative paths are resolved from the recipe)."""
    also_known_as: ClassVar[Mapping[str, str]] = {
        **HuggingFaceFiles.also_known_as,
        **dict.fromkeys(("base_model", "model_name_or_path", "pretrained_model_name_or_path", "model_name"), "id"),
        "model_id": "id",
        "model_revision": "revision",
    }
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
