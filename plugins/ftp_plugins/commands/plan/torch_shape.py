"""The shape of a model, from its structure on torch's meta device."""

from __future__ import annotations

import time
from typing import Any

import torch

import ftp
from ftp.errors import ModelError
from ftp.lm.torch_models import expert_weights
from ftp_plugins.commands.plan.arithmetic import FOUR_BIT_BYTES, Shape


def shape_of(loaded: ftp.LoadedModel) -> Shape:
    """Return the shape of a model with its adapter applied; its weights may be on the meta device."""
    model = loaded.model
    config = model.config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    ends = {id(end.weight) for end in (head, embedding) if hasattr(end, "weight")}
    experts = _share_of_experts(model, config)
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and id(m.weight) not in ends}
    # bitsandbytes replaces the linear layers of the base, and not those of adapters.
    in_4_bits = {id(p) for p in model.parameters() if id(p) in linear and not p.requires_grad}
    in_4_bits = in_4_bits if loaded.request.quantization else set()
    int8 = loaded.request.quantization is not None and loaded.request.quantization.scheme == "int8"
    stored = 1.0 if int8 else FOUR_BIT_BYTES
    active = trained = weights = gradients = 0.0
    for name, weight in model.named_parameters():
        share = next((experts[end] for end in experts if name.endswith(end)), 1.0)
        if id(weight) in linear or "lora_" in name or share < 1.0:
            active += share * weight.numel()
            trained += share * weight.numel() if weight.requires_grad else 0
        size = stored if id(weight) in in_4_bits else weight.element_size()
        weights += weight.numel() * size
        gradients += weight.numel() * weight.element_size() if weight.requires_grad else 0
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _number(config, "num_attention_heads", "n_head")
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    width = getattr(config, "head_dim", None) or hidden // heads
    outside = sum(p.numel() * p.element_size() for p in {id(p): p for p in _ends(head, embedding)}.values())
    return Shape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        trainable=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        active_linear=active,
        active_trainable=trained,
        head=head.weight.numel(),
        head_trains=head.weight.requires_grad,
        four_bit=sum(weight.numel() for weight in model.parameters() if id(weight) in in_4_bits),
        weight_bytes=weights,
        gradient_bytes=gradients,
        layers=layers,
        largest_layer_bytes=max(outside, (weights - outside) / layers),
        hidden=hidden,
        intermediate=getattr(config, "moe_intermediate_size", None)
        or getattr(config, "intermediate_size", None)
        or 4 * hidden,
        key_value=(getattr(config, "num_key_value_heads", None) or heads) * width,
        attention_width=heads * width,
        vocabulary=head.weight.shape[0],
    )


def _ends(*ends: Any) -> list[Any]:
    return [end.weight for end in ends if hasattr(end, "weight")]


def _number(config: Any, *names: str) -> int:
    """Return the first of a config's numbers that it has; models name them differently."""
    for name in names:
        if isinstance(found := getattr(config, name, None), int):
            return found
    raise ModelError(f"{type(config).__name__} has no {names[0]}: what training takes can't be told for this model")


def _share_of_experts(model: Any, config: Any) -> dict[str, float]:
    """Return the share of a mixture's experts that a token goes through, by the end of their weights' names."""
    names = expert_weights(model)
    if not names:
        return {}
    chosen = _number(config, "num_experts_per_tok", "moe_topk", "top_k")
    return {name: chosen / _number(config, "num_experts", "num_local_experts", "n_routed_experts") for name in names}


def measured_tflops(threads: int) -> float:
    """Return the speed of a float32 product on this machine's processors, in 10^12 operations a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        size = 1024
        left, right = torch.randn(size, size), torch.randn(size, size)
        left @ right
        best = min(_seconds(left, right) for _ in range(5))
        return float(2 * size**3 / best / 1e12)
    finally:
        torch.set_num_threads(before)


def _seconds(left: Any, right: Any) -> float:
    began = time.perf_counter()
    left @ right
    return time.perf_counter() - began
