"""Full fine-tuning."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

import ftp
from ftp_plugins.adapters.layers import Layers, layer_numbers


class Full(ftp.Adapter):
    """Trains every weight. The usual learning rate is about a tenth of LoRA's.

    Layers or embeddings can be frozen.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    saves_whole_model: ClassVar[bool] = True
    learning_rates: ClassVar[tuple[float, float] | None] = (5e-6, 2e-5)
    also_known_as: ClassVar[Mapping[str, str]] = {"unfrozen_parameters": "parameters"}

    layers: Layers = "all"
    """Decoder layers that train: all, the last ones (`last 8`), or a list of numbers that begin at 0."""
    embeddings: bool = True
    """Whether the token embeddings and the output head train."""
    parameters: list[str] | None = Field(default=None, min_length=1)
    """Regular expressions searched in the names of parameters: only those that one is found in train, such as
    `[r'norm', r'layers\\.(0|1)\\.']`."""

    def problems(self) -> list[str]:
        found = []
        for pattern in self.parameters or ():
            try:
                re.compile(pattern)
            except re.error as error:
                found.append(f"parameters: '{pattern}' is not a regular expression: {error}")
        if self.parameters is not None and (self.layers != "all" or not self.embeddings):
            found.append("parameters: chooses everything that trains; remove `layers` and `embeddings`")
        return found

    def prepare(self, request: ftp.ModelRequest) -> ftp.ModelRequest:
        if request.already_quantized:
            raise ftp.ModelError(
                f"full: {request.model} is stored quantised ({request.already_quantized}) and can't be trained "
                "in full; use lora, or a model with plain weights"
            )
        if request.layers is not None:
            layer_numbers(self.layers, request.layers)
        if request.new_tokens and not self.embeddings:
            raise ftp.ModelError("full: new tokens learn nothing while the embeddings are frozen; leave embeddings on")
        # Steps of a usual size are smaller than bfloat16 can add to a weight: the weights have to be float32.
        return dataclasses.replace(request, dtype="float32" if request.dtype == "auto" else request.dtype)

    def apply(self, loaded: ftp.LoadedModel) -> ftp.LoadedModel:
        model = loaded.model
        model.requires_grad_(True)
        if self.parameters is not None:
            self._freeze_others(model)
        if self.layers != "all":
            from ftp_plugins.adapters.torch_modules import decoder_layers

            _, modules = decoder_layers(model)
            chosen = layer_numbers(self.layers, len(modules))
            for number, module in enumerate(modules):
                module.requires_grad_(number in chosen)
        if not self.embeddings:
            model.get_input_embeddings().requires_grad_(False)
            model.get_output_embeddings().requires_grad_(False)
        return loaded

    def _freeze_others(self, model: Any) -> None:
        """Freeze the parameters that no pattern is found in; refuse a pattern that is found in none."""
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.parameters or ():
            if not any(re.search(pattern, name) for name in names):
                raise ftp.ModelError(f"full: parameters: '{pattern}' is found in no name, such as {names[-1]}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(re.search(pattern, name) for pattern in self.parameters or ()))

    def restore(self, loaded: ftp.LoadedModel, directory: Path) -> ftp.LoadedModel:
        # By the library and not file by file: it knows the names and layouts that weights have on disk.
        model = loaded.model
        trained, found = type(model).from_pretrained(directory, dtype=model.dtype, output_loading_info=True)
        if found["missing_keys"]:
            raise ftp.ModelError(f"{directory}: {len(found['missing_keys'])} weights are not in its files")
        model.load_state_dict(trained.state_dict())
        return loaded
