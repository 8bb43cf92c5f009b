"""Models from Acme's store, whose weights are checked against the store's index before they are loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

import ftp
from ftp.errors import did_you_mean
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles

Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """One version of a model in index.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    """Its directory below the store."""
    sha256: dict[str, Checksum] = Field(min_length=1)
    """The checksum of each .safetensors file in it."""


class Index(BaseModel):
    """index.json: the store's models by name and version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, dict[str, Entry]]


class Store(HuggingFaceFiles):
    """A model of Acme's store by name and version; weights that differ from the store's checksum are refused."""

    store: ftp.FilePath
    """The store's directory, with index.json in it."""
    model: str
    """The model's name in the index."""
    version: str
    """Its version. It must always be stated, so that a run can be repeated."""

    def problems(self) -> list[str]:
        try:
            self.entry()
        except ftp.ModelError as error:
            return [str(error)]
        return []

    def locate(self) -> ModelFiles:
        return ModelFiles(str(self.entry()[0]), f"{self.model} {self.version}")

    def load(self, request: ftp.ModelRequest) -> ftp.LoadedModel:
        directory, entry = self.entry()
        _verify(directory, entry.sha256)
        return super().load(request)

    def entry(self) -> tuple[Path, Entry]:
        """Return the model's directory and its entry in the index.

        Raises:
            ModelError: the index can't be read or doesn't have the model, or the directory isn't in the store.
        """
        store = Path(self.store).resolve()
        index = store / "index.json"
        versions = _known("model", self.model, _read(index).models, index)
        entry = _known(f"version of {self.model}", self.version, versions, index)
        directory = (store / entry.path).resolve()
        if not directory.is_relative_to(store):
            raise ftp.ModelError(f"{index}: {self.model} {self.version}: {entry.path} is outside of the store")
        if not (directory / "config.json").is_file():
            raise ftp.ModelError(f"{index}: {self.model} {self.version}: no model in {directory}")
        return directory, entry


def _read(index: Path) -> Index:
    try:
        return Index.model_validate(json.loads(index.read_text(encoding="utf-8")))
    except OSError as error:
        raise ftp.ModelError(f"{index}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ftp.ModelError(f"{index}: {where}: {first['msg']}") from None
    except ValueError as error:  # broken JSON, or bytes that are not UTF-8
        raise ftp.ModelError(f"{index}: not JSON: {error}") from None


def _known(what: str, name: str, among: dict[str, Any], index: Path) -> Any:
    if name not in among:
        raise ftp.ModelError(f"{index}: no {what} is called '{name}'{did_you_mean(name, among)}")
    return among[name]


def _verify(directory: Path, checksums: dict[str, str]) -> None:
    """Compare every weight file with the index: none may differ, be missing, or be added.

    Raises:
        ModelError: the file that differs.
    """
    there = {str(file.relative_to(directory)) for file in directory.rglob("*.safetensors")}
    for name in sorted(there ^ checksums.keys()):
        what = "is not in the store's index" if name in there else "is in the store's index and not there"
        raise ftp.ModelError(f"{directory / name}: {what}; nothing was loaded")
    for name, expected in checksums.items():
        with (directory / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            raise ftp.ModelError(
                f"{directory / name}: its SHA-256 is {found}, the store's index says {expected}; nothing was loaded"
            )
