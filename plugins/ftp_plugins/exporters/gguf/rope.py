"""Rotary position embeddings in GGUF: bases, scaling, and the factors of Llama 3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ftp


def rope_of(config: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the settings of the layers that see the whole text, and of those with a window (empty for the same).

    Raises:
        ModelError: a kind of scaling that llama.cpp has no key for.
    """
    settings = dict(getattr(config, "rope_parameters", None) or {})
    whole = settings.get("full_attention", settings)
    window = settings.get("sliding_attention", {})
    kind = whole.get("rope_type", "default")
    problem = ""
    if kind not in ("default", "linear", "llama3", "yarn"):
        problem = f"the rope scaling '{kind}' has no form that is written here"
    elif kind == "yarn" and whole.get("attention_factor") is not None:
        problem = "yarn's attention_factor means something else to llama.cpp"
    elif whole.get("partial_rotary_factor", 1.0) != 1.0:
        problem = "only a part of each head is rotated"
    elif window.get("rope_type", "default") != "default":
        problem = "the layers with a window have a rope scaling of their own"
    if problem:
        raise ftp.ModelError(f"can't be written as GGUF: {problem}; export merged")
    return whole, window


def add_rope(writer: Any, config: Any) -> None:
    """Write bases and scaling into the metadata of a GGUF file."""
    import gguf

    whole, window = rope_of(config)
    writer.add_rope_freq_base(whole["rope_theta"])
    if window.get("rope_theta"):
        writer.add_rope_freq_base_swa(window["rope_theta"])
    if whole.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(whole["factor"])
    elif whole.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(whole["factor"])
        original = whole.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
        for key in ("beta_fast", "beta_slow"):
            if whole.get(key) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{key}")(whole[key])


def llama3_factors(config: Any) -> list[float] | None:
    """Return by what each frequency is divided (Llama 3.1's scaling, [head size / 2]); None for another scaling.

    As `_compute_llama3_parameters` of transformers: high frequencies stay, low ones are divided by `factor`, and those
    between are mixed.
    """
    whole, _ = rope_of(config)
    if whole.get("rope_type") != "llama3":
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    factor, low, high = (float(whole[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = whole["original_max_position_embeddings"]
    factors = []
    for at in range(0, size, 2):
        length = 2 * math.pi * whole["rope_theta"] ** (at / size)
        if length < context / high:
            factors.append(1.0)
        elif length > context / low:
            factors.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors
