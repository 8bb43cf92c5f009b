"""Training of every weight."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import ftp


class Full(ftp.Adapter):
    """Every weight trains. The learning rate is about a tenth of LoRA's."""

    requires: ClassVar[tuple[str, ...]] = ("torch",)

    def prepare(self, request: ftp.ModelRequest) -> ftp.ModelRequest:
        if request.already_quantized:
            raise ftp.ModelError(
                f"full: {request.model} is stored quantised ({request.already_quantized}) and can't train whole; "
                "use lora, or a model with plain weights"
            )
        # Steps of a usual size are smaller than bfloat16 can add to a weight: the weights have to be float32.
        return dataclasses.replace(request, dtype="float32" if request.dtype == "auto" else request.dtype)

    def apply(self, loaded: ftp.LoadedModel) -> ftp.LoadedModel:
        loaded.model.requires_grad_(True)
        return loaded

    def restore(self, loaded: ftp.LoadedModel, directory: Path) -> ftp.LoadedModel:
        from safetensors.torch import load_file

        weights = {
            name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(file).items()
        }
        loaded.model.load_state_dict(weights, strict=False)  # tied weights are stored once
        loaded.model.tie_weights()
        return loaded
