"""Low-rank adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

import ftp
from ftp.errors import did_you_mean


class LoRA(ftp.Adapter):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685). Usual learning rate: 5e-5 to 2e-4."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "peft")

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = Field(default=32, gt=0)
    """Scale: the update is multiplied by alpha / r (alpha / sqrt(r) with rslora)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Layers that get an adapter: all linear ones but the output head, or a list of names such as q_proj."""
    rslora: bool = False
    """Rank-stabilised scale (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Weight-decomposed update (Liu et al. 2024, arXiv:2402.09353)."""
    init: Literal["default", "gaussian"] = "default"
    """First weights of A: Kaiming uniform, or Gaussian. B begins at zero in both."""

    def prepare(self, request: ftp.ModelRequest) -> ftp.ModelRequest:
        if isinstance(self.targets, list) and request.linear_modules is not None:
            for target in self.targets:
                if target.rsplit(".", 1)[-1] not in request.linear_modules:
                    raise ftp.ModelError(
                        f"{self.used_as}: {request.model} has no linear layer '{target}'"
                        f"{did_you_mean(target, request.linear_modules)}"
                    )
        return request

    def apply(self, loaded: ftp.LoadedModel) -> ftp.LoadedModel:
        import peft

        loaded.model.requires_grad_(False)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=True if self.init == "default" else self.init,
        )
        return dataclasses.replace(loaded, model=peft.get_peft_model(loaded.model, config))

    def restore(self, loaded: ftp.LoadedModel, directory: Path) -> ftp.LoadedModel:
        import peft

        return dataclasses.replace(loaded, model=peft.PeftModel.from_pretrained(loaded.model, directory))
