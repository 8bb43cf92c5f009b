"""Speed of matrix products on a processor in float32 and in bfloat16, and the type to multiply in."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from functools import cache

import torch

from ftp.lm.processor import TYPES, fastest, note_speeds
from ftp.lm.torch_devices import pick_dtype

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


def _measurable(width: int) -> int:
    return min(WIDEST, max(NARROWEST, width))


@cache
def product_speeds(out: int, wide: int, threads: int) -> dict[str, float]:
    """Measure GFLOP/s of the products x W^T and dY W for W [out, wide], by type; takes a second at most.

    The types take turns and the best time of each product counts. On a busy machine several threads wait for one
    another, which hides how fast the products are; where one thread alone is faster, its speeds are returned.

    Args:
        threads: that torch uses; the result is kept for each number, and the last one in this user's cache.
    """
    measured = []
    try:
        for number in {1, threads}:
            torch.set_num_threads(number)
            measured.append(_speeds(out, wide))
    finally:
        torch.set_num_threads(threads)
    best = max(measured, key=lambda speeds: math.prod(speeds.values()))
    note_speeds(best)
    return best


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
