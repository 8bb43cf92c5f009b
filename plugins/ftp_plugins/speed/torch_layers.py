"""Puts the fast layers into a model of standard modules while it trains, and reports the replacements."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer

from ftp_plugins.speed.torch_copies import WeightCopies
from ftp_plugins.speed.torch_forwards import (
    DropoutLoRAForward,
    GatedForward,
    LoRAForward,
    MixedForward,
    NormForward,
    SharedLoRA,
)
from ftp_plugins.speed.torch_head import forget_buffers
from ftp_plugins.speed.torch_pointwise import Recipe

SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that Llama-like families feed with one input."""
LIKE_LLAMA = ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "Phi3", "SmolLM3", "Ministral")
LIKE_GEMMA = ("Gemma", "Gemma2", "Gemma3")
"""Families whose RMSNorm multiplies by the weight, and by 1 + the weight in float32."""
FORWARDS = (DropoutLoRAForward, GatedForward, LoRAForward, MixedForward, NormForward)
GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
"""The parts of a gated unit."""


@contextlib.contextmanager
def fast_layers(model: Any, copies: WeightCopies) -> Iterator[list[str]]:
    """Replace the forward of known layers inside the block; the list names the replacements.

    Args:
        copies: of float32 weights that train, in the type to multiply in; float32 for no change.
    """
    recipe = Recipe()
    shared = _shared_lora_forwards(model, recipe)
    replacements = {**shared, **_single_forwards(model, copies, recipe, done=shared)}
    kinds: Counter[str] = Counter()
    for module, (forward, kind) in replacements.items():
        module.forward = forward
        kinds[kind] += 1
    try:
        yield [f"{count} {kind}" for kind, count in kinds.items()]
    finally:
        for module in replacements:
            del module.forward
        copies.clear()
        recipe.clear()
        forget_buffers()


@contextlib.contextmanager
def without_fast_layers(model: Any) -> Iterator[None]:
    """Take out what `fast_layers` has put in, inside the block."""
    forwards = {module: vars(module).get("forward") for module in model.modules()}
    fast = {module: forward for module, forward in forwards.items() if isinstance(forward, FORWARDS)}
    for module in fast:
        del module.forward
    try:
        yield
    finally:
        for module, forward in fast.items():
            module.forward = forward


Replacements = dict[Any, tuple[Callable[..., Any], str]]
"""For each module its new forward, and the kind of layer in words."""


def _shared_lora_forwards(model: Any, recipe: Recipe) -> Replacements:
    """Return forwards for LoRA layers without dropout that share an input."""
    forwards: Replacements = {}
    for module in model.modules():
        for names in SHARED:
            members = [getattr(module, name, None) for name in names]
            if all(map(_is_plain_lora, members)) and not any(map(_dropout, members)):
                group = SharedLoRA(members, recipe)
                forwards |= {m: (LoRAForward(group, index), "LoRA layers") for index, m in enumerate(members)}
    return forwards


def _single_forwards(model: Any, copies: WeightCopies, recipe: Recipe, done: Replacements) -> Replacements:
    """Return forwards for the other known layers, one by one."""
    compute = copies.dtype
    inside = {part for module in model.modules() if _is_plain_lora(module) for part in module.modules()}
    forwards: Replacements = {}
    for module in model.modules():
        if module in done or "forward" in vars(module):
            continue
        one_plus = _norm_adds_one(module)
        if _is_plain_lora(module):
            forwards[module] = _training_forward(module, recipe), "LoRA layers"
        elif module not in inside and _is_mixed(module, compute):
            kind = f"linear layers in {str(compute).removeprefix('torch.')}"
            forwards[module] = MixedForward(module, copies), kind
        elif one_plus is not None:
            forwards[module] = NormForward(module, one_plus, compute, recipe), "norms"
        elif _is_gated(module):
            forwards[module] = GatedForward(module, recipe), "gated units"
    return forwards


def _training_forward(module: Any, recipe: Recipe) -> Callable[..., Any]:
    return DropoutLoRAForward(module) if _dropout(module) else LoRAForward(SharedLoRA([module], recipe), 0)


def _is_plain_lora(module: Any) -> bool:
    """Return whether it is peft's LoRA on a linear layer with one active adapter and no variant such as DoRA."""
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


def _is_mixed(module: Any, compute: torch.dtype) -> bool:
    return type(module) is torch.nn.Linear and module.weight.dtype == torch.float32 and compute != torch.float32


def _norm_adds_one(module: Any) -> bool | None:
    """Return False for Llama's kind of norm, True for Gemma's with its factor 1 + weight, None for anything else."""
    family = type(module).__name__.removesuffix("RMSNorm")
    if not type(module).__module__.startswith("transformers.models."):
        return None
    return False if family in LIKE_LLAMA else True if family in LIKE_GEMMA else None


def _is_gated(module: Any) -> bool:
    if {name for name, _ in module.named_children()} != GATED or getattr(module, "act_fn", None) is None:
        return False
    return isinstance(module.act_fn, torch.nn.SiLU) or type(module.act_fn).__name__ == "SiLUActivation"
