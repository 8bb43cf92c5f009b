"""Parts of a causal language model: the model inside an adapter's wrapper, its output head, its experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def causal_model(model: Any) -> Any:
    """Return the causal language model itself, without an adapter's wrapper around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: Any) -> Callable[..., Any]:
    """Return a function from hidden states [..., hidden] to logits [..., vocabulary], in the type of the weights.

    It applies the scales and soft caps that some families have.
    """
    causal = causal_model(model)
    linear = causal.get_output_embeddings()
    scale, cap = logit_scale_and_cap(causal)

    def head(states: torch.Tensor) -> torch.Tensor:
        logits = linear(states) * scale
        capped: torch.Tensor = torch.tanh(logits / cap) * cap if cap else logits
        return capped

    return head


def logit_scale_and_cap(causal: Any) -> tuple[float, float | None]:
    """Return the factor of a family's logits (Cohere, Granite; else 1), and their soft cap (Gemma 2; else None)."""
    config = causal.config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return scale, getattr(config, "final_logit_softcapping", None)


def expert_weights(model: Any) -> list[str]:
    """Return the paths of the weights that hold all experts of a layer at once, float [experts, …, …]."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3 and name.split(".")[-2:-1] == ["experts"]
    ]
