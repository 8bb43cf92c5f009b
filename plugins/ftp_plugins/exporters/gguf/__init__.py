"""GGUF files, for llama.cpp and everything that is built on it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import ftp
from ftp_plugins.exporters.card import write_card
from ftp_plugins.exporters.gguf.quantise import WITH_LLAMA_CPP, GgufType, usual_proof


class GgufFile(ftp.Exporter):
    """One GGUF file with weights, tokenizer and chat template, for llama.cpp, Ollama, LM Studio and others.

    It is compared with the run in llama.cpp where llama-cpp-python is installed, and with transformers otherwise. The
    types that end in K_M, K_S or K need llama-cpp-python: `pip install 'ftp-finetune[llama]'`.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "gguf", "numpy")

    type: GgufType = "F16"
    """Type of the weights; fewer bits make a smaller file that is further from the model of the run."""
    content: Literal["model", "adapter"] = "model"
    """model: all weights, with the training merged in. adapter: the LoRA alone, for llama.cpp's `--lora`."""
    opened_with: Literal["auto", "llama.cpp", "transformers"] = "auto"
    """What opens the file for the comparison. auto: llama.cpp where llama-cpp-python is installed."""

    def problems(self) -> list[str]:
        found = []
        there = importlib.util.find_spec("llama_cpp") is not None
        if self.type in WITH_LLAMA_CPP and not there:
            found.append(f"type: {self.type} is written by llama.cpp alone: pip install 'ftp-finetune[llama]'")
        if self.opened_with == "llama.cpp" and not there:
            found.append("opened_with: llama-cpp-python is not installed: pip install 'ftp-finetune[llama]'")
        if self.content == "adapter" and self.type not in ("F32", "F16", "BF16"):
            found.append("type: an adapter is stored as F32, F16 or BF16")
        return found

    @property
    def weights(self) -> ftp.Weights:
        return "plain"

    def usual_proof(self) -> ftp.Proof:
        return usual_proof(self.type)

    def rehearse(self, base: ftp.LoadedModel, whole: bool) -> int:
        from ftp_plugins.exporters.gguf.torch_export import rehearse

        if self.content == "adapter" and whole:
            raise ftp.ModelError("full training leaves no adapter; say content: model")
        return rehearse(base, self.type, self.content)

    def export(self, job: ftp.ExportJob) -> Path:
        from ftp_plugins.exporters.gguf.torch_export import export_adapter, export_model

        part = "-adapter" if self.content == "adapter" else ""
        file = job.directory / f"{job.run.name}{part}-{self.type}.gguf"
        (export_adapter if self.content == "adapter" else export_model)(job, file, self.type)
        return file

    def reopen(self, job: ftp.ExportJob, path: Path) -> ftp.Exported:
        from ftp_plugins.exporters.gguf.torch_export import reopen

        with_llama_cpp = self.opened_with == "llama.cpp" or (
            self.opened_with == "auto" and importlib.util.find_spec("llama_cpp") is not None
        )
        return reopen(job, path, self.content, with_llama_cpp)

    def finish(self, job: ftp.ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        option = "--lora" if self.content == "adapter" else "-m"
        write_card(job, record, "gguf", "sh", [f"llama-server {option} PATH/{path.name}"])
