"""The types of numbers in GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import ftp

GgufType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4",
    "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K",
]  # fmt: skip
"""Types of the weights of a file, as llama.cpp names them."""

WITH_LLAMA_CPP = ("Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K")
"""Those that llama.cpp alone can write."""
BOUNDS: dict[str, tuple[float, float]] = {
    "F32": (0.002, 0.95),  # the run itself may have computed in 16 bits: measured 7e-4
    "F16": (0.002, 0.95),
    "BF16": (0.002, 0.95),
    "Q8_0": (0.05, 0.93),
    "Q6_K": (0.1, 0.9),
    "Q5_K_M": (0.35, 0.75),
    "Q5_K_S": (0.35, 0.75),
    "Q3_K_M": (0.4, 0.7),
    "Q2_K": (0.7, 0.6),
}
"""Usual bounds of KL (nats per token) and of the share of same next tokens: about twice what was measured."""
OTHERS = (0.3, 0.75)
"""The bounds of the types that aren't named."""


def usual_proof(kind: str) -> ftp.Proof:
    """Return the bounds that a type of weights usually keeps.

    docs/export.md has what was measured on SmolLM2-135M. Small models lose most.
    """
    kl, top1 = BOUNDS.get(kind, OTHERS)
    return ftp.Proof(kl=kl, top1=top1)


def stored_type(name: str, shape: Sequence[int], kind: str, head: str) -> Any:
    """Return the `gguf.GGMLQuantizationType` in which one tensor is stored.

    Norms, biases and routers stay float32. The output head is stored in 8 bits where the rest has fewer, as llama.cpp
    keeps it in more bits, too. A row that is no whole number of blocks is stored as float16.

    Args:
        name: in GGUF.
        shape: the last dimension is that of a row.
        kind: the type of the file's weights.
        head: the name of the tensor that makes logits.
    """
    import gguf

    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or name.endswith(("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")):
        return types.F32
    wanted = types["Q8_0" if name == head and kind.startswith(("Q4", "Q5", "MXFP4")) else kind]
    return wanted if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else types.F16


def quantised(values: Any, kind: Any) -> Any:
    """Return a float32 array in a type of GGUF: uint8 blocks for quantised ones.

    Args:
        values: float32 [..., row].
        kind: a `gguf.GGMLQuantizationType`.
    """
    import gguf
    import numpy as np

    if kind == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, np.float32)
    if kind == gguf.GGMLQuantizationType.F16:
        return np.ascontiguousarray(values, np.float16)
    return gguf.quants.quantize(np.ascontiguousarray(values, np.float32), kind)


def quantise_with_llama_cpp(source: str, target: str, kind: str) -> None:
    """Have llama.cpp write a GGUF file in a type of its own.

    Raises:
        ModelError: it can't.
    """
    import ctypes

    import gguf
    import llama_cpp

    from ftp_plugins.exporters.gguf.llama_log import llama_errors

    errors = llama_errors()
    errors.clear()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if code != 0:
        raise ftp.ModelError(f"llama.cpp can't quantise to {kind}: {errors[-1] if errors else f'code {code}'}")


def other_types(file: str, kind: str) -> str:
    """Say how many weights of a K-quant are stored in other types, because their rows aren't whole blocks; or nothing.

    llama.cpp stores them in the next larger type with smaller blocks (Q4_K becomes Q5_0, Q6_K becomes Q8_0).
    """
    import gguf

    tensors = [tensor for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1]
    odd = [tensor for tensor in tensors if tensor.shape[0] % gguf.QK_K]
    if not odd:
        return ""
    bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors) / sum(int(tensor.n_elements) for tensor in tensors)
    return (
        f"{kind}: {len(odd)} of {len(tensors)} weights have rows of no multiple of {gguf.QK_K} numbers, so llama.cpp "
        f"stores them in larger types: {bits:.1f} bits a weight in all"
    )
