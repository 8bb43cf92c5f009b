"""Every other method of the PEFT library, by PEFT's own configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import ftp
from ftp.errors import did_you_mean
from ftp.files import first_line

OURS = frozenset(
    ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version")
)
"""Keys of PEFT's configurations that follow from the recipe."""


class PEFT(ftp.Adapter):
    """Trains one of PEFT's other methods, such as IA3, VeRA or OFT, configured as PEFT documents it.

    Use lora or qlora for LoRA: they know more about it. Methods that put virtual tokens before a prompt are not here,
    since rows are packed; nor is AdaLoRA, which needs calls of its own during training. For norms alone use full with
    `parameters`.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "peft", "safetensors")

    method: Literal["IA3", "VERA", "OFT", "LOHA", "LOKR", "HRA", "FOURIERFT", "RANDLORA", "MISS", "DELORA"]
    """The method, as PEFT spells it."""
    config: dict[str, Any] = {}
    """PEFT's configuration of the method, such as `{target_modules: all-linear, r: 256}`."""

    def problems(self) -> list[str]:
        return [f"config.{key}: follows from the recipe; remove it" for key in sorted(OURS & set(self.config))]

    def prepare(self, request: ftp.ModelRequest) -> ftp.ModelRequest:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
        from peft.utils import PeftType

        known = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.method)])}
        for key in self.config:
            if key not in known:
                raise ftp.ModelError(
                    f"{self.used_as}: config: PEFT's {self.method} has no option '{key}'{did_you_mean(key, known)}"
                )
        if request.already_quantized:
            raise ftp.ModelError(
                f"{self.used_as}: {request.model} is stored quantised ({request.already_quantized}); use lora on it"
            )
        if request.new_tokens:
            raise ftp.ModelError(f"{self.used_as}: rows of new tokens train with lora, qlora and full only")
        return request

    def apply(self, loaded: ftp.LoadedModel) -> ftp.LoadedModel:
        import peft

        loaded.model.requires_grad_(False)
        try:
            config = peft.get_peft_config({"peft_type": self.method, "task_type": "CAUSAL_LM", **self.config})
            model = peft.get_peft_model(loaded.model, config)
        except Exception as error:  # each method checks in its own way
            raise ftp.ModelError(f"{self.used_as}: PEFT refuses the configuration: {first_line(error)}") from None
        return dataclasses.replace(loaded, model=model)

    def save(self, loaded: ftp.LoadedModel, directory: Path) -> None:
        loaded.model.save_pretrained(directory, save_embedding_layers=False)

    def can_restore(self, directory: Path) -> bool:
        return (directory / "adapter_config.json").is_file()

    def restore(self, loaded: ftp.LoadedModel, directory: Path) -> ftp.LoadedModel:
        import peft

        return dataclasses.replace(loaded, model=peft.PeftModel.from_pretrained(loaded.model, directory))
