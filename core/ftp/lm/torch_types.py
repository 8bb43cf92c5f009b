"""The data types that a model is loaded in and multiplied in, where its request leaves them to the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import psutil

from ftp.lm.processor import in_words
from ftp.lm.torch_products import type_to_multiply_in
from ftp.types import ModelRequest


def with_types(request: ModelRequest, name: str, device: str) -> tuple[ModelRequest, Mapping[str, float], list[str]]:
    """Return the request with a type in place of each `auto`, the speeds measured for it, and notes for the user.

    Plain weights are loaded in the type that multiplies: the answers, the losses and the training are of one model. The
    exception are float32 weights that would take more than half of the free memory and can't be held in bfloat16.

    Args:
        name: what messages call the model.
        device: as torch names it.
    """
    gflops: Mapping[str, float] = {}
    compute, dtype, quantization = request.compute, request.dtype, request.quantization
    notes = []
    if compute == "auto":
        compute, gflops = type_to_multiply_in(device, request.layer_shapes)
    if quantization is not None and quantization.compute_dtype == "auto":
        # bitsandbytes has kernels for bfloat16 on every GPU.
        unpacked = "bfloat16" if device.startswith("cuda") else compute
        quantization = dataclasses.replace(quantization, compute_dtype=unpacked)
    if dtype == "auto":
        dtype = quantization.compute_dtype if quantization else compute
        plain = dtype == "float32" and quantization is None and gflops
        if plain and not fits(request.parameters) and not (request.frozen and request.stored_dtype == "bfloat16"):
            dtype = "bfloat16"
            notes.append(
                f"{name} is loaded in bfloat16: this machine multiplies float32 faster ({in_words(gflops)}), but "
                "float32 weights would take more than half of the free memory."
            )
    used = quantization.compute_dtype if quantization else dtype
    if gflops and not notes and (used, compute) == ("bfloat16", "float32"):
        notes.append(
            f"Products are computed in bfloat16, as the recipe says; this machine computes them "
            f"{gflops['float32'] / gflops['bfloat16']:.1f} times as fast in float32 ({in_words(gflops)})."
        )
    return dataclasses.replace(request, dtype=dtype, compute=compute, quantization=quantization), gflops, notes


def held_in_bfloat16(request: ModelRequest, device: str) -> bool:
    """Return whether the loader holds weights of a request with types in bfloat16, where that is exact.

    See `ftp.lm.torch_bfloat16`. On a processor alone: the float32 weights that a GPU multiplies are asked for by name.
    """
    return request.frozen and request.dtype == "float32" and request.quantization is None and device == "cpu"


def fits(parameters: int | None) -> bool:
    """Return whether float32 weights take at most half of the free memory."""
    return parameters is None or 4 * parameters <= psutil.virtual_memory().available / 2
