"""The fast layers: replacements by `fast_layers` for a module's `forward`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ftp.lm.torch_bfloat16 import FrozenLinear
from ftp_plugins.speed.torch_copies import WeightCopies
from ftp_plugins.speed.torch_linear import LoRALinears, MixedLinear
from ftp_plugins.speed.torch_pointwise import Recipe, RMSNorm, SwiGLU, gated, inverse_rms, normed


class FrozenWeight:
    """W [out, in] of the layer under an adapter, unpacked at each call when it is held in a smaller type."""

    def __init__(self, module: Any) -> None:
        self.base = module.get_base_layer()
        self.packed = type(self.base).__name__ == "Linear4bit"
        self.dtype: torch.dtype = getattr(self.base, "compute_dtype", self.base.weight.dtype)
        """Data type in which the layer multiplies."""
        if self.packed:
            from bitsandbytes.functional import dequantize_4bit  # not needed for other weights

            self.unpack = dequantize_4bit

    def __call__(self) -> torch.Tensor:
        weight: Any = self.base.weight
        if self.packed:
            weight = self.unpack(weight.data, weight.quant_state)
        unpacked: torch.Tensor = weight.to(self.dtype)
        return unpacked


class SharedLoRA:
    """LoRA layers with a common input: the first call computes the results of all.

    The results of the other layers are kept until they are called with the same input.

    Args:
        recipe: of the latest result of a norm or a gated unit; if that is the input, it isn't kept.
    """

    def __init__(self, members: Sequence[Any], recipe: Recipe) -> None:
        self.members, self.recipe = members, recipe
        self.weights = tuple(FrozenWeight(member) for member in members)
        self.dtype = self.weights[0].dtype
        self.input: torch.Tensor | None = None
        self.waiting: dict[int, torch.Tensor] = {}

    def result(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Return y [..., out] of the layer with this index for x [..., in]."""
        if self.input is not x or index not in self.waiting:
            self.compute(x)
        y = self.waiting.pop(index)
        if not self.waiting:
            self.input = None
        return y

    def compute(self, x: torch.Tensor) -> None:
        """Compute the results of all layers."""
        scales = tuple(member.scaling[member.active_adapters[0]] for member in self.members)
        biases = tuple(member.get_base_layer().bias for member in self.members)
        factors = [factor for member in self.members for factor in factors_of(member)]
        rows = x.reshape(-1, x.shape[-1]).to(self.dtype)
        recipe = self.recipe if self.recipe.result is x and x.dtype == self.dtype else None
        results = LoRALinears.apply(rows, recipe, self.weights, biases, scales, *factors)
        self.waiting = {index: y.view(*x.shape[:-1], -1) for index, y in enumerate(results)}
        self.input = x


class LoRAForward:
    """Forward of a LoRA layer without dropout, one of those that share an input."""

    def __init__(self, shared: SharedLoRA, index: int) -> None:
        self.shared, self.index, self.module = shared, index, shared.members[index]

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.module.disable_adapters or self.module.merged:
            return type(self.module).forward(self.module, x, *args, **kwargs)
        return self.shared.result(self.index, x)


class DropoutLoRAForward:
    """Forward of a LoRA layer with dropout."""

    def __init__(self, module: Any) -> None:
        self.module, self.weight = module, FrozenWeight(module)
        self.adapter = module.active_adapters[0]

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        module, dtype = self.module, self.weight.dtype
        if module.disable_adapters or module.merged:
            return type(module).forward(module, x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        low, high = factors_of(module)
        y = FrozenLinear.apply(rows, self.weight, module.get_base_layer().bias)
        dropped = module.lora_dropout[self.adapter](rows)
        y = y + (dropped @ low.to(dtype).t()) @ high.to(dtype).t() * module.scaling[self.adapter]
        return y.view(*x.shape[:-1], -1)


def factors_of(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A [r, in] and B [out, r] of a LoRA layer."""
    name = module.active_adapters[0]
    return module.lora_A[name].weight, module.lora_B[name].weight


class MixedForward:
    """Forward of a linear layer whose float32 weight is multiplied in another type."""

    def __init__(self, module: torch.nn.Linear, copies: WeightCopies) -> None:
        self.module, self.copies = module, copies

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, weight = x.reshape(-1, x.shape[-1]), self.module.weight
        y: torch.Tensor = MixedLinear.apply(rows, weight, self.module.bias, self.copies.of(weight))
        return y.view(*x.shape[:-1], -1)


class NormForward:
    """Forward of an RMSNorm; the result of one with a float32 weight is in the type to multiply in.

    Args:
        one_plus: whether the factor is 1 + weight.
        recipe: where to note how the result is computed.
    """

    def __init__(self, module: Any, one_plus: bool, compute: torch.dtype, recipe: Recipe) -> None:
        self.module, self.one_plus, self.recipe = module, one_plus, recipe
        self.eps = getattr(module, "variance_epsilon", None) or module.eps
        narrows = module.weight.dtype == torch.float32 and compute != torch.float32
        self.dtype = compute if narrows else None

    def __call__(self, x: torch.Tensor) -> Any:
        weight, inverse, dtype = self.module.weight, inverse_rms(x, self.eps), self.dtype or x.dtype
        y = RMSNorm.apply(x, weight, inverse, self.one_plus, dtype)
        self.recipe.note(y, partial(normed, one_plus=self.one_plus, dtype=dtype), x, weight, inverse)
        return y


class GatedForward:
    """Forward of a gated unit, down(silu(gate(x)) * up(x)).

    Args:
        recipe: where to note how the input of `down` is computed.
    """

    def __init__(self, module: Any, recipe: Recipe) -> None:
        self.module, self.recipe = module, recipe

    def __call__(self, x: torch.Tensor) -> Any:
        module = self.module
        gate, up = module.gate_proj(x), module.up_proj(x)
        y = SwiGLU.apply(gate, up)
        self.recipe.note(y, gated, gate, up)
        return module.down_proj(y)
