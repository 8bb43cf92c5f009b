"""Frozen linear layers whose weights are held in bfloat16 and multiplied in float32.

A bfloat16 number is exact in float32, so the products are those of a float32 model, with half the memory for its
weights. A weight is unpacked for each product, in the backward pass once more, and not kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ftp.lm import allocator


class FrozenLinear(torch.autograd.Function):
    """y = x W^T + bias with a W [out, in] that does not train; `weight` gives it, for each of both passes anew."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.weight = weight
        return functional.linear(x, weight(), bias)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        return torch.matmul(dy, ctx.weight()), None, None


class Bfloat16Linear(torch.nn.Linear):
    """A linear layer with a weight in bfloat16 and a bias in float32, for inputs in float32.

    Args:
        layer: whose weight and bias it takes over; they don't train any more.
    """

    compute_dtype = torch.float32
    """The type that it multiplies in. peft makes adapters in this type."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight = torch.nn.Parameter(layer.weight.detach().to(torch.bfloat16), requires_grad=False)
        if layer.bias is not None:
            self.bias = torch.nn.Parameter(layer.bias.detach().to(torch.float32), requires_grad=False)
        self.train(layer.training)

    def unpacked(self) -> torch.Tensor:
        """Return the weight in float32."""
        return self.weight.to(self.compute_dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y [..., out] for x [..., in]."""
        if torch.is_grad_enabled() and x.requires_grad:
            y: torch.Tensor = FrozenLinear.apply(x, self.unpacked, self.bias)
            return y
        return functional.linear(x, self.unpacked(), self.bias)


def hold_in_bfloat16(model: Any) -> None:
    """Hold the weights of linear layers that bfloat16 expresses exactly in that type, and all others in float32.

    The embeddings and the output head, whose products are computed a part at a time, stay in float32.

    Args:
        model: a causal language model in float32 or bfloat16 whose linear layers won't train; changed in place.
    """
    head = model.get_output_embeddings()
    linear = {path: module for path, module in model.named_modules() if type(module) is torch.nn.Linear}
    for path, module in linear.items():
        if module is not head and _is_exact(module.weight):
            model.set_submodule(path, Bfloat16Linear(module))
    held = {id(module.weight) for module in model.modules() if isinstance(module, Bfloat16Linear)}
    for weight in model.parameters():
        if id(weight) not in held and weight.dtype == torch.bfloat16:
            weight.data = weight.data.float()
    allocator.give_back()  # the gaps that the float32 weights leave are too small for what comes


def hold_in_float32(model: Any) -> None:
    """Undo `hold_in_bfloat16`, so that weights can be changed; also below the layers of an adapter."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Bfloat16Linear):
            plain = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            plain.weight = torch.nn.Parameter(module.unpacked(), requires_grad=False)
            plain.bias = module.bias
            model.set_submodule(path, plain.train(module.training))


def _is_exact(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.bfloat16 or torch.equal(weight.bfloat16().float(), weight)
