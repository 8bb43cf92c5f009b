"""Speed of matrix products on a processor in float32 and in bfloat16, and the type to multiply in."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from functools import cache

import torch

from ftp.lm.torch_devices import pick_dtype

TYPES = ("float32", "bfloat16")
AHEAD = 1.15
"""How many times as fast float32 has to be: at a tie, bfloat16 takes half the memory."""
SECONDS = 0.3
"""Time for the products of both types, for each number of threads; one that takes longer is computed once."""
ROWS = 256
NARROWEST, WIDEST = 512, 1536
"""A layer is measured as if it were at least and at most so wide: a small one takes no time, a large one too much."""


def type_to_multiply_in(device: str, shapes: Collection[tuple[int, int]] = ()) -> tuple[str, Mapping[str, float]]:
    """Return the type in which a device multiplies fastest, and the GFLOP/s of both types where they were measured.

    A processor is measured: one that has instructions for bfloat16 may still multiply float32 faster. Other devices
    multiply bfloat16 where they have it.

    Args:
        device: as torch names it.
        shapes: (out, in) of the layers of a model.
    """
    if device != "cpu":
        return pick_dtype(device), {}
    widths = [(_measurable(out), _measurable(wide)) for out, wide in shapes] or [(1024, 1024)]
    speeds = product_speeds(*max(widths, key=lambda shape: (math.prod(shape), shape)), torch.get_num_threads())
    return fastest(speeds), speeds


def fastest(speeds: Mapping[str, float]) -> str:
    """Return the faster of both types; bfloat16 unless float32 is clearly ahead."""
    return "float32" if speeds["float32"] > AHEAD * speeds["bfloat16"] else "bfloat16"


def in_words(speeds: Mapping[str, float]) -> str:
    """Format the speed of both types."""
    return ", ".join(f"{name} {speeds[name]:,.0f} GFLOP/s" for name in TYPES)


def _measurable(width: int) -> int:
    return min(WIDEST, max(NARROWEST, width))


@cache
def product_speeds(out: int, wide: int, threads: int) -> dict[str, float]:
    """Measure GFLOP/s of the products x W^T and dY W for W [out, wide], by type; takes a second at most.

    The types take turns and the best time of each product counts. On a busy machine several threads wait for one
    another, which hides how fast the products are; where one thread alone is faster, its speeds are returned.

    Args:
        threads: that torch uses; the result is kept for each number.
    """
    measured = []
    try:
        for number in {1, threads}:
            torch.set_num_threads(number)
            measured.append(_speeds(out, wide))
    finally:
        torch.set_num_threads(threads)
    return max(measured, key=lambda speeds: math.prod(speeds.values()))


@torch.inference_mode()
def _speeds(out: int, wide: int) -> dict[str, float]:
    products: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}
    for name in TYPES:
        dtype = getattr(torch, name)
        x, w, dy = (torch.ones(size, dtype=dtype) for size in ((ROWS, wide), (out, wide), (ROWS, out)))
        products |= {(name, "forward"): (x, w.t()), (name, "backward"): (dy, w)}
    best = dict.fromkeys(products, math.inf)
    end = time.perf_counter() + SECONDS
    while math.inf in best.values() or time.perf_counter() < end:
        for key, pair in products.items():
            began = time.perf_counter()
            torch.mm(*pair)
            best[key] = min(best[key], time.perf_counter() - began)
    flops = 2 * 2 * ROWS * out * wide
    return {name: flops / 1e9 / (best[name, "forward"] + best[name, "backward"]) for name in TYPES}
