"""Initial weights of low-rank adapters taken from the base weights, and the conversion back to a plain adapter.

This isn't left to peft, which rounds the factors of bfloat16 models to bfloat16, leaves the scale of the adapter out
of LoftQ (which it has for CUDA only), and loses DoRA's magnitudes and the rows of new tokens on conversion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import ftp

ADAPTER = "default"
"""The name that peft gives the only adapter of a model."""


def move_into_adapter(model: Any, how: str, iterations: int | None) -> None:
    """Move a part of every adapted weight W into its adapter, so that the model as a whole stays the same.

    pissa: the r largest singular directions (Meng et al. 2024, arXiv:2404.02948). olora: the first r columns of Q and
    rows of R of W = QR (Büyükakyüz 2024, arXiv:2406.01775). The initial adapters are kept with the model for
    `as_plain_adapter`.

    Args:
        model: a `peft.PeftModel` with plain weights.
        iterations: of the subspace iteration that finds the singular directions; None for an exact decomposition.
    """
    model.first_adapter = {}
    with torch.no_grad():
        for path, layer in _adapted(model):
            weight = layer.get_base_layer().weight
            a, b = _principal(weight.float(), layer.r[ADAPTER], how, iterations)
            _set(path, layer, a, b)
            weight.copy_(weight.float() - layer.scaling[ADAPTER] * (_b(layer) @ _a(layer)))
            model.first_adapter[f"{path}.lora_A.weight"] = _a(layer).clone()
            model.first_adapter[f"{path}.lora_B.weight"] = _b(layer).clone()


def approximate_quantization_error(model: Any, plain: Any) -> None:
    """Initialise adapters to the best approximation of rank r of the quantisation error.

    LoftQ with one iteration (Li et al. 2023, arXiv:2310.08659). The 4-bit weights stay unchanged.

    Args:
        model: a `peft.PeftModel` on 4-bit weights.
        plain: the same base model with plain weights.
    """
    from peft.utils.integrations import dequantize_module_weight

    with torch.no_grad():
        for path, layer in _adapted(model):
            base = layer.get_base_layer()
            kept = dequantize_module_weight(base).float()
            lost = plain.get_submodule(path.removeprefix("base_model.model.")).weight.to(kept.device).float() - kept
            _set(path, layer, *_principal(lost, layer.r[ADAPTER], "pissa", None))
            if layer.use_dora[ADAPTER]:
                magnitude = layer.lora_magnitude_vector[ADAPTER].weight
                begun = kept + layer.scaling[ADAPTER] * (_b(layer) @ _a(layer))
                magnitude.copy_(torch.linalg.norm(begun, dim=1))


def as_plain_adapter(model: Any, directory: Path) -> None:
    """Convert the adapter in `directory`, trained after `move_into_adapter`, to one for the original base weights.

    W - sB₀A₀ + sBA = W + s[B, -B₀][A; A₀]: an adapter of twice the rank and the same scale. In float32 the sum is the
    same to 1e-6; in bfloat16 to the rounding of the base weights.
    """
    import peft
    from safetensors.torch import load_file, save_file

    file = directory / "adapter_model.safetensors"
    weights = load_file(file)
    for name, first in model.first_adapter.items():
        first = first.to(weights[name].device)
        of_a = name.endswith("lora_A.weight")
        weights[name] = torch.cat([weights[name], first if of_a else -first], dim=0 if of_a else 1).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    config = peft.LoraConfig.from_pretrained(directory)
    alphas = math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    config.lora_alpha *= alphas
    config.rank_pattern = {key: 2 * r for key, r in config.rank_pattern.items()}
    config.alpha_pattern = {key: alphas * alpha for key, alpha in config.alpha_pattern.items()}
    config.save_pretrained(directory)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and module of every adapted linear layer."""
    from peft.tuners.lora import LoraLayer

    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            yield path, module


def _principal(matrix: Any, r: int, how: str, iterations: int | None) -> tuple[Any, Any]:
    """Return the factors a [r, in] and b [out, r] of the principal part of a float32 matrix [out, in]."""
    if how == "olora":
        q, rest = torch.linalg.qr(matrix)
        return rest[:r], q[:, :r]
    if iterations is None:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        u, s, vh = u[:, :r], s[:r], vh[:r]
    else:
        u, s, v = torch.svd_lowrank(matrix, min(r, *matrix.shape), niter=iterations)
        vh = v.T
    return s.sqrt()[:, None] * vh, u * s.sqrt()


def _set(path: str, layer: Any, a: Any, b: Any) -> None:
    """Set the weights of an adapter so that its scaled product is b @ a."""
    if len(a) < layer.r[ADAPTER]:
        raise ftp.ModelError(
            f"{path}: its rank is at most {len(a)}, so no adapter of rank {layer.r[ADAPTER]} can be taken from it; "
            "lower adapter.r, or set adapter.init: default"
        )
    root = math.sqrt(layer.scaling[ADAPTER])
    _a(layer).copy_(a / root)
    _b(layer).copy_(b / root)


def _a(layer: Any) -> Any:
    return layer.lora_A[ADAPTER].weight


def _b(layer: Any) -> Any:
    return layer.lora_B[ADAPTER].weight
