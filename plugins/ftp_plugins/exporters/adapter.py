"""The trained adapter alone, ready for the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import ftp
from ftp_plugins.exporters.card import write_card
from ftp_plugins.reporters.model_card import load_lines


class AdapterFiles(ftp.Exporter):
    """The adapter in PEFT's layout with tokenizer and model card; it names the base model that it belongs to."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft")

    base_model: str | None = None
    """What the adapter names as its base, a hub id say. Default: the model of the recipe."""

    def cross_problems(self, recipe: Any) -> list[str]:
        whole = recipe.adapter.saves_whole_model
        return [f"'{recipe.adapter.used_as}' leaves no adapter; export merged or gguf"] if whole else []

    def usual_proof(self) -> ftp.Proof:
        return ftp.Proof(kl=1e-6, top1=0.999)

    def rehearse(self, base: ftp.LoadedModel, whole: bool) -> int:
        if whole:
            raise ftp.ModelError("full training leaves no adapter; export merged or gguf")
        return 0

    def export(self, job: ftp.ExportJob) -> Path:
        trained, config = job.run.directory / "model", job.run.directory / "model" / "adapter_config.json"
        if not config.is_file():
            raise ftp.ModelError(f"{trained}: no adapter in PEFT's layout; export merged or gguf")
        hidden = shutil.ignore_patterns("README.md", ".*")
        shutil.copytree(trained, job.directory, dirs_exist_ok=True, ignore=hidden)
        settings = json.loads(config.read_text(encoding="utf-8"))
        model = job.run.recipe["model"]
        settings["base_model_name_or_path"] = name = (
            self.base_model or model.get("id") or settings["base_model_name_or_path"]
        )
        settings["revision"] = model.get("revision")
        (job.directory / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if Path(name).is_absolute():
            job.note(
                f"The adapter names {name} as its base, which others don't have; --set base_model=ORG/NAME names "
                "another place"
            )
        return job.directory

    def reopen(self, job: ftp.ExportJob, path: Path) -> ftp.Exported:
        from ftp_plugins.exporters.torch_reopen import with_peft

        return with_peft(path, job.base())

    def finish(self, job: ftp.ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        write_card(job, record, "peft", "python", load_lines(job.run, "PATH"))
