"""Puts the fast layers into a model of standard modules, for as long as it trains, and says what it did."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ftp_plugins.speed import torch_head as head
from ftp_plugins.speed import torch_linear as linear
from ftp_plugins.speed import torch_pointwise as layers

SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that families of Llama's kind feed with one input."""
LIKE_LLAMA = ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "Phi3", "SmolLM3", "Ministral")
LIKE_GEMMA = ("Gemma", "Gemma2", "Gemma3")
"""Families whose RMSNorm multiplies by the weight, and by 1 + the weight in float32."""


@contextlib.contextmanager
def fast_layers(model: Any, compute: torch.dtype) -> Iterator[list[str]]:
    """Replace the forward of known layers while the block lasts; the list says which.

    Args:
        compute: what float32 weights that train are multiplied in; float32 for no change.
    """
    done: Counter[str] = Counter()
    changed: list[Any] = []

    def replace(module: Any, forward: Callable[..., Any], what: str) -> None:
        module.forward = forward
        changed.append(module)
        done[what] += 1

    for module in model.modules():
        for names in SHARED:
            members = [getattr(module, name, None) for name in names]
            if all(map(_plain_lora, members)) and not any(map(_dropout, members)):
                for member, forward in zip(members, _shared_lora(members), strict=True):
                    replace(member, forward, "LoRA layers")
    inside = {id(part) for module in model.modules() if _plain_lora(module) for part in module.modules()}
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if _plain_lora(module):
            replace(module, _lora(module), "LoRA layers")
        elif id(module) not in inside and _mixes(module, compute):
            replace(module, _mixed(module, compute), f"linear layers in {str(compute).removeprefix('torch.')}")
        elif _rms_norm_of(module) is not None:
            replace(module, _norm(module, compute), "norms")
        elif _gated(module):
            replace(module, _gated_forward(module), "gated units")
    try:
        yield [f"{count} {what}" for what, count in done.items()]
    finally:
        for module in changed:
            del module.forward
        _COPIES.clear()
        _STALE.clear()
        head.forget_buffers()


# --- low-rank adapters -----------------------------------------------------------------------------------------------


def _plain_lora(module: Any) -> bool:
    """Whether it is peft's LoRA on a linear layer with one active adapter and no variant such as DoRA."""
    from peft.tuners.lora import Linear
    from peft.tuners.lora.layer import LoraLayer

    if not isinstance(module, LoraLayer) or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    if (
        name not in module.lora_A
        or name in module.lora_variant
        or module.merged
        or module.lora_B[name].bias is not None
    ):
        return False
    return type(module) is Linear or type(module).__name__ == "Linear4bit"


def _dropout(module: Any) -> float:
    return float(getattr(module.lora_dropout[module.active_adapters[0]], "p", 0.0))


def _weight_of(module: Any) -> Callable[[], torch.Tensor]:
    """A function that gives W [out, in] of the layer under an adapter, unpacked when it is in 4 bits."""
    base = module.get_base_layer()
    if type(base).__name__ != "Linear4bit":
        return lambda: base.weight

    from bitsandbytes.functional import dequantize_4bit

    return lambda: dequantize_4bit(base.weight.data, base.weight.quant_state).to(base.compute_dtype)


def _type_of(module: Any) -> Any:
    """What the layer under an adapter multiplies in."""
    base = module.get_base_layer()
    return base.compute_dtype if type(base).__name__ == "Linear4bit" else base.weight.dtype


def _factors(module: Any) -> tuple[Any, Any]:
    name = module.active_adapters[0]
    return module.lora_A[name].weight, module.lora_B[name].weight


def _lora(module: Any) -> Callable[..., Any]:
    if not _dropout(module):
        return next(iter(_shared_lora([module])))
    plain, weight, dtype = type(module).forward, _weight_of(module), _type_of(module)
    name = module.active_adapters[0]

    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        if module.disable_adapters or module.merged:
            return plain(module, x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        low, high = _factors(module)
        y = linear.frozen_linear().apply(rows, weight, module.get_base_layer().bias)
        dropped = module.lora_dropout[name](rows)
        y = y + (dropped @ low.to(dtype).t()) @ high.to(dtype).t() * module.scaling[name]
        return y.view(*x.shape[:-1], -1)

    return forward


def _shared_lora(members: list[Any]) -> list[Callable[..., Any]]:
    """Forwards for layers that are given one input: the first call does the work of all."""
    weights = tuple(_weight_of(member) for member in members)
    dtype = _type_of(members[0])
    waiting: dict[int, Any] = {}
    of: list[Any] = [None]

    def forward_of(index: int, member: Any) -> Callable[..., Any]:
        plain = type(member).forward

        def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
            if member.disable_adapters or member.merged:
                return plain(member, x, *args, **kwargs)
            if of[0] is x and index in waiting:
                return waiting.pop(index)
            scales = tuple(m.scaling[m.active_adapters[0]] for m in members)
            biases = tuple(m.get_base_layer().bias for m in members)
            factors = [factor for m in members for factor in _factors(m)]
            rows = x.reshape(-1, x.shape[-1]).to(dtype)
            found = linear.lora_linears().apply(rows, weights, biases, scales, *factors)
            waiting.clear()
            waiting.update((at, y.view(*x.shape[:-1], -1)) for at, y in enumerate(found))
            of[0] = x
            mine = waiting.pop(index)
            if not waiting:
                of[0] = None
            return mine

        return forward

    return [forward_of(index, member) for index, member in enumerate(members)]


# --- other layers ----------------------------------------------------------------------------------------------------


def _mixes(module: Any, compute: Any) -> bool:
    return type(module) is torch.nn.Linear and module.weight.dtype == torch.float32 and compute != torch.float32


def _mixed(module: Any, compute: Any) -> Callable[..., Any]:
    def forward(x: Any) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        y = linear.mixed_linear().apply(rows, module.weight, module.bias, copy_of(module.weight, compute))
        return y.view(*x.shape[:-1], -1)

    return forward


_COPIES: dict[int, tuple[Any, Any]] = {}
"""Of each weight by its id: the weight itself and its copy. Empty where nothing trains."""
_STALE: set[int] = set()


def copy_of(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in another type, made anew after `weights_changed`."""
    _, copy = _COPIES.get(id(weight), (weight, None))
    if copy is None:
        with torch.inference_mode(False):  # made in an evaluation, it could not be used for training afterwards
            copy = weight.detach().to(dtype)
        _COPIES[id(weight)] = (weight, copy)
    elif id(weight) in _STALE:
        copy.copy_(weight.detach())
    _STALE.discard(id(weight))
    found: torch.Tensor = copy
    return found


def weights_changed() -> None:
    """To be called after every optimizer step: a fused one leaves the version of a tensor as it was."""
    _STALE.update(_COPIES)


def _rms_norm_of(module: Any) -> bool | None:
    """False for Llama's kind of norm, True for Gemma's with its factor 1 + weight, None for anything else."""
    family = type(module).__name__.removesuffix("RMSNorm")
    if not type(module).__module__.startswith("transformers.models."):
        return None
    return False if family in LIKE_LLAMA else True if family in LIKE_GEMMA else None


def _norm(module: Any, compute: Any) -> Callable[..., Any]:
    one_plus = bool(_rms_norm_of(module))
    eps = getattr(module, "variance_epsilon", None) or module.eps
    narrows = module.weight.dtype == torch.float32 and compute != torch.float32

    def forward(x: Any) -> Any:
        return layers.rms_norm().apply(x, module.weight, eps, one_plus, compute if narrows else x.dtype)

    return forward


def _gated(module: Any) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    if any(part is None for part in parts) or {name for name, _ in module.named_children()} != {
        "gate_proj",
        "up_proj",
        "down_proj",
        "act_fn",
    }:
        return False
    return isinstance(module.act_fn, torch.nn.SiLU) or type(module.act_fn).__name__ == "SiLUActivation"


def _gated_forward(module: Any) -> Callable[..., Any]:
    def forward(x: Any) -> Any:
        return module.down_proj(layers.swiglu().apply(module.gate_proj(x), module.up_proj(x)))

    return forward
