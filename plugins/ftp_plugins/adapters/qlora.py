"""Low-rank adapters on weights in 4 or 8 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import ftp
from ftp.lm.processor import trains_on_it, why_slow
from ftp_plugins.adapters.lora import LoRA

if TYPE_CHECKING:
    from ftp.recipe import Recipe


class QLoRA(LoRA):
    """LoRA on weights stored in 4 bits (Dettmers et al. 2023, arXiv:2305.14314), or in 8.

    The base answers are the quantised model's.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "peft", "bitsandbytes")
    also_known_as: ClassVar[Mapping[str, str]] = {
        **LoRA.also_known_as,
        **dict.fromkeys(("load_in_4bit", "quantization_bit", "use_qlora"), ""),
        **dict.fromkeys(("bnb_4bit_quant_type", "load_in_8bit"), "scheme"),
        "bnb_4bit_compute_dtype": "compute_dtype",
        "bnb_4bit_use_double_quant": "double_quantization",
    }

    scheme: Literal["nf4", "fp4", "int8"] = "nf4"
    """Data type of the weights: nf4 and fp4 have 4 bits. int8 has 8, which lose less and take twice the memory; inputs
    are rounded to 8 bits too, but for outliers (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339)."""
    double_quantization: bool = True
    """Quantise the scales of the blocks too; those of 4 bits."""
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Data type to which 4-bit weights are dequantised for each product, and that of what isn't quantised. auto:
    bfloat16 on a GPU, on a processor the faster of bfloat16 and float32, which is measured."""

    def problems(self) -> list[str]:
        found = super().problems()
        if self.init in ("pissa", "olora"):
            found.append(
                f"init: {self.init} changes the base weights, and 4 bits can't hold what is left of them; use lora, or "
                "init: loftq"
            )
        if self.scheme == "int8" and self.init == "loftq":
            found.append("init: loftq compensates for what 4 bits lose; remove it with `scheme: int8`")
        if self.scheme == "int8" and not self.double_quantization:
            found.append("double_quantization: is for 4 bits; remove it with `scheme: int8`")
        return found

    def warnings(self, recipe: Recipe) -> list[str]:
        slow = why_slow(self.compute_dtype) if trains_on_it(getattr(recipe.model, "device", "")) else None
        return [f"compute_dtype: {slow}"] if slow else []

    @property
    def _in_4_bits(self) -> bool:
        return True

    @property
    def _doubles(self) -> bool:
        return self.double_quantization and self.scheme != "int8"

    def prepare(self, request: ftp.ModelRequest) -> ftp.ModelRequest:
        request = super().prepare(request)
        if request.already_quantized:
            raise ftp.ModelError(
                f"{self.used_as}: {request.model} is quantised already ({request.already_quantized}); use lora "
                "on it, or qlora on the model with plain weights"
            )
        return dataclasses.replace(
            request,
            dtype=self.compute_dtype if request.dtype == "auto" else request.dtype,
            quantization=ftp.Quantization(self.scheme, self._doubles, self.compute_dtype),
        )
