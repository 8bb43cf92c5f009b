"""Norms, gated units and rotary embeddings with explicit derivatives: fewer passes, less memory kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional


class Recipe:
    """How the latest result of a norm or a gated unit is computed, at the price of a pass or two over memory.

    The layers behind it keep its inputs, which that norm or unit keeps too, in place of the result.
    """

    result: torch.Tensor | None = None
    function: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...] = ()

    def note(self, result: torch.Tensor, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        """Remember how a result was computed: as `function(*inputs)`."""
        self.result, self.function, self.inputs = result, function, tuple(of.detach() for of in inputs)

    def clear(self) -> None:
        """Forget the latest result."""
        self.result, self.inputs = None, ()


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return 1 / sqrt(mean(x^2) + eps) for each row of x [..., n], float32 [..., 1], without gradient."""
    norm: torch.Tensor = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def normed(x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, one_plus: bool, dtype: Any) -> torch.Tensor:
    """Return x times its `inverse_rms` times the weight, in `dtype`; see `RMSNorm`."""
    if one_plus:
        return (x * inverse).mul_(1 + weight.float()).to(dtype)
    # Models multiply the weight in after the rounding, so we do.
    return (x * inverse).to(x.dtype).mul(weight).to(dtype)


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up."""
    return functional.silu(gate).mul_(up)


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) times weight (Zhang & Sennrich 2019, arXiv:1910.07467), statistics in float32.

    Arguments: x [..., n], weight [n], the `inverse_rms` of x, `one_plus` (Gemma: the factor is 1 + weight, applied in
    float32), the type of the result. Kept for the backward pass: x and one float32 a row.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, inverse: Any, one_plus: bool, dtype: Any) -> Any:
        ctx.save_for_backward(x, weight, inverse)
        ctx.one_plus = one_plus
        return normed(x, weight, inverse, one_plus, dtype)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight, inverse = ctx.saved_tensors
        factor = 1 + weight.float() if ctx.one_plus else weight.float()
        unit = x * inverse
        scaled = dy * factor
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (dy * unit).flatten(0, -2).sum(0).to(weight.dtype)
        mean = torch.linalg.vecdot(scaled, unit).div_(x.shape[-1]).unsqueeze(-1)
        dx = scaled.addcmul_(unit, mean, value=-1).mul_(inverse).to(x.dtype)
        return dx, dweight, None, None, None


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202); kept for the backward pass: gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any) -> Any:
        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        gate, up = ctx.saved_tensors
        dgate = torch.ops.aten.silu_backward(dy * up, gate)
        return dgate, functional.silu(gate).mul_(dy)
