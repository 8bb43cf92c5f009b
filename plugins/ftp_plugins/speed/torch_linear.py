"""Linear layers for training: low-rank adapters as one autograd node, and bfloat16 products of float32 weights."""

from __future__ import annotations

from typing import Any

import torch


class LoRALinears(torch.autograd.Function):
    """Layers that share an input, each y = x W^T + bias + scale (x A^T) B^T (Hu et al. 2021, arXiv:2106.09685).

    Arguments: x [T, in]; its `Recipe`, or None; then tuples with one entry for each layer: `weights`, functions that
    give W [out, in], so that one in a smaller type is unpacked when it is used and not kept; `biases`; `scales`; then
    A [r, in] and B [out, r] of each. Returns one y [T, out] for each layer. Kept for the backward pass: x, or what it
    is computed from, and x A^T, [T, r].
    """

    @staticmethod
    def forward(ctx: Any, x: Any, recipe: Any, weights: Any, biases: Any, scales: Any, *factors: Any) -> Any:
        lows = [a.to(x.dtype) for a in factors[::2]]
        h = torch.mm(x, torch.cat(lows).t() if len(lows) > 1 else lows[0].t())
        found = []
        start = 0
        for weight, bias, scale, high in zip(weights, biases, scales, factors[1::2], strict=True):
            w = weight()
            y = torch.mm(x, w.t()) if bias is None else torch.addmm(bias, x, w.t())
            found.append(y.addmm_(h[:, start : start + high.shape[1]], high.to(x.dtype).t(), alpha=scale))
            start += high.shape[1]
        kept = (x,) if recipe is None else recipe.inputs
        ctx.save_for_backward(h, *factors, *kept)
        ctx.weights, ctx.scales, ctx.function = weights, scales, None if recipe is None else recipe.function
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        h, *rest = ctx.saved_tensors
        factors, kept = rest[: 2 * len(ctx.weights)], rest[2 * len(ctx.weights) :]
        x = kept[0] if ctx.function is None else ctx.function(*kept).flatten(0, -2)
        dx, start, dfactors = None, 0, []
        dh = torch.empty_like(h)
        for weight, scale, dy, high in zip(ctx.weights, ctx.scales, grads, factors[1::2], strict=True):
            place = slice(start, start + high.shape[1])
            dfactors += [None, torch.mm(dy.t(), h[:, place]).to(high.dtype).mul_(scale)]
            dh[:, place] = torch.mm(dy, high.to(dy.dtype)).mul_(scale)
            if ctx.needs_input_grad[0]:
                w = weight()
                dx = torch.mm(dy, w) if dx is None else dx.addmm_(dy, w)
            start = place.stop
        dlow = torch.mm(dh.t(), x)
        start = 0
        for at, low in enumerate(factors[::2]):
            dfactors[2 * at] = dlow[start : start + len(low)].to(low.dtype)
            start += len(low)
        if dx is not None:
            dx.addmm_(dh, torch.cat([low.to(dh.dtype) for low in factors[::2]]))
        return dx, *(None,) * 4, *dfactors


class MixedLinear(torch.autograd.Function):
    """y = x W^T in the type of `compute`, a copy of the float32 W that trains; the gradient of W is float32.

    What autocast does, without making the copy in every pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, compute: Any) -> Any:
        x16 = x.to(compute.dtype)
        ctx.save_for_backward(x16, weight, bias, compute)
        ctx.dtype = x.dtype
        return torch.mm(x16, compute.t()) if bias is None else torch.addmm(bias.to(x16.dtype), x16, compute.t())

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight, bias, compute = ctx.saved_tensors
        dx = torch.mm(dy, compute).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        dweight = torch.mm(dy.t(), x).to(weight.dtype) if ctx.needs_input_grad[1] else None
        dbias = dy.sum(0, dtype=bias.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        return dx, dweight, dbias, None
