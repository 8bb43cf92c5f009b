"""The loader for models of earlier runs: merged once into plain weights, cached by content."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import ftp
from ftp.cache import forget_unused, user_cache
from ftp.errors import FtpError
from ftp.files import digest, file_digest, new_directory
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles, directory_fingerprint
from ftp.provenance import trust as consents
from ftp.provenance.lock import LOCK, lock_of, origin_of
from ftp.runs.directory import RunDirectory

LAYOUT = "1"
"""Part of the cache key; increased when the cached content changes."""
SHARD = "5GB"


class Run(HuggingFaceFiles):
    """The trained model of an earlier run, as the base model of this one.

    An adapter is merged into the base that it was trained on (that of qlora into the dequantised base, the model that
    was evaluated), once, and cached by content. The lock and the reports say which run it is from. Python files that
    the run had as plugins are imported again, as its recipe may name what they offer.
    """

    requires: ClassVar[tuple[str, ...]] = (*HuggingFaceFiles.requires, "peft")

    path: ftp.FilePath
    """The run directory (relative paths are resolved from the recipe)."""

    def problems(self) -> list[str]:
        try:
            self._check()
        except FtpError as error:
            return [f"path: {error}"]
        return []

    def needs_consent(self) -> Sequence[str]:
        return [f"of the run {self.path}: {what}" for what in self._needs]

    def needs_consent_in_recipe(self) -> Sequence[str]:
        # One's own recipe may name a run of somebody else.
        return [f"of the run {self.path}: {what}" for what in consents.missing(self._directory, self._needs)]

    def fingerprint(self) -> str:
        """Identify the model by the lock of its run and the bytes of its trained weights."""
        self._check()
        model = directory_fingerprint(self._directory.place("model"))
        return digest([file_digest(self._directory.place(LOCK)), model])

    def lineage(self) -> Mapping[str, Any]:
        lock = lock_of(self._directory)
        return {
            "run": self._directory.id,
            "name": self._directory.name,
            "lock": file_digest(self._directory.place(LOCK)),
            "fingerprint": self.fingerprint(),
            "base": lock.get("model", {}).get("name", ""),
            **({"parent": lock["lineage"]} if "lineage" in lock else {}),
        }

    def locate(self) -> ModelFiles:
        name = f"{self._directory.name}/{self._directory.id}"
        self._check()
        if self._recipe.adapter.saves_whole_model:
            return ModelFiles(str(self._directory.place("model")), name)
        return ModelFiles(str(self._merged()), name)

    def describe(self) -> ftp.ModelRequest:
        return dataclasses.replace(super().describe(), model=self.path)

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(Path(self.path))

    @property
    def _plugin_files(self) -> list[Path]:
        """The Python files that the run was given as plugins."""
        return [Path(file) for file in origin_of(self._directory)["plugins"]]

    @cached_property
    def _recipe(self) -> Any:
        """The recipe of the run. Reading it imports the run's plugins: `_needs` comes first."""
        from ftp import plugins, recipe

        without = origin_of(self._directory)["without"]
        return recipe.read(self._directory.place("resolved.yaml"), plugins.load(self._plugin_files, without))

    @property
    def _needs(self) -> list[str]:
        self._check()
        if files := consents.of_files(self._plugin_files):
            return files  # what its components do is known only after the import, which may do all that and more
        return consents.of_recipe([self._recipe.model, self._recipe.adapter])

    def _check(self) -> None:
        """Raise an error unless there is a run with a trained model."""
        if not Path(self.path).is_dir():
            raise ftp.ModelError(f"{self.path}: no such directory")
        if not (Path(self.path) / LOCK).is_file():
            raise ftp.ModelError(f"{self.path}: not a run directory; one is below runs/NAME/")
        if "train" not in self._directory.stages():
            raise ftp.ModelError(f"{self.path}: no trained model in it; `ftp resume {self.path}` finishes the run")
        for file in self._plugin_files:
            if not file.is_file():
                raise ftp.ModelError(f"{self.path}: its run used the plugin {file}, which isn't there any more")

    def _merged(self) -> Path:
        """Return the directory of the merged model, creating it if it is not in the cache."""
        import filelock

        cache = user_cache("runs")
        target = cache / f"{self.fingerprint()}-{LAYOUT}"
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if target.is_dir():
                os.utime(target)
                return target
            from ftp.lm.torch_merge import check_mergeable, merged, save
            from ftp.stages.load_trained import load_trained

            forget_unused(cache)
            loaded = load_trained(self._recipe, self._directory, "plain")
            check_mergeable(loaded)
            with new_directory(target) as aside:
                save(merged(loaded), loaded.tokenizer, aside, loaded.request.dtype, SHARD)
        return target
