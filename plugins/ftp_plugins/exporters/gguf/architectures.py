"""Families of models that can be written as GGUF: llama.cpp's name for each, and its settings as metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ftp


@dataclass(frozen=True, slots=True)
class Architecture:
    """How llama.cpp wants the weights of a family."""

    name: str
    """llama.cpp's name for the family."""
    permutes: bool = False
    """Whether the rows of q and k are reordered: llama.cpp rotates neighbouring pairs here, transformers halves."""
    norm_offset: float = 0.0
    """What the family adds to the weights of a norm when it computes; llama.cpp wants it added already."""
    sliding: int = 0
    """Every so-manieth layer sees the whole text and the others a window; 0: all see the whole text."""
    activation: str = "silu"


ARCHITECTURES = {
    "llama": Architecture("llama", permutes=True),
    "mistral": Architecture("llama", permutes=True),
    "mixtral": Architecture("llama", permutes=True),
    "qwen2": Architecture("qwen2"),
    "qwen2_moe": Architecture("qwen2moe"),
    "qwen3": Architecture("qwen3"),
    "qwen3_moe": Architecture("qwen3moe"),
    "gemma": Architecture("gemma", norm_offset=1.0, activation="gelu_pytorch_tanh"),
    "gemma2": Architecture("gemma2", norm_offset=1.0, sliding=2, activation="gelu_pytorch_tanh"),
    "gemma3_text": Architecture("gemma3", norm_offset=1.0, sliding=6, activation="gelu_pytorch_tanh"),
}
"""By `model_type` of the configuration."""

REFUSED = {
    "phi3": "llama.cpp keeps its fused projections and long-context factors in a form that isn't written here",
    "phi": "its parallel blocks and partial rotation are not written here",
}
LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the size of a family for which llama.cpp scales attention by hidden size over heads."""


def architecture_of(config: Any) -> Architecture:
    """Return how a model's family is written.

    Args:
        config: the model's text configuration, of transformers.

    Raises:
        ModelError: why a model of this family, or with these settings, can't be written right.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        why = REFUSED.get(kind, f"the families written here are {known}")
        raise ftp.ModelError(f"'{kind}' can't be written as GGUF: {why}; export merged")
    found = ARCHITECTURES[kind]
    for what in _unlike_llama_cpp(config, found):
        raise ftp.ModelError(f"can't be written as GGUF: {what}; export merged")
    return found


def _unlike_llama_cpp(config: Any, found: Architecture) -> list[str]:
    """List the settings that llama.cpp has no key for and computes otherwise."""
    problems = []
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in (found.activation, "gelu" if found.name == "gemma" else found.activation):
        problems.append(f"llama.cpp computes {found.activation} in this family and the model has {activation}")
    if getattr(config, "use_sliding_window", False) and found.name.startswith("qwen"):
        problems.append("llama.cpp has no sliding window in this family")
    if found.sliding:
        layers = range(1, config.num_hidden_layers + 1)
        usual = ["full_attention" if n % found.sliding == 0 else "sliding_attention" for n in layers]
        if list(config.layer_types) != usual:
            problems.append(f"llama.cpp lets every {found.sliding}th layer see the whole text, and this model others")
        scale = config.hidden_size / config.num_attention_heads
        if config.num_hidden_layers != LARGEST[found.name]:
            scale = config.head_dim
        if config.query_pre_attn_scalar != scale:
            problems.append(f"llama.cpp scales attention by {scale:g} here and the model by its query_pre_attn_scalar")
    if found.name.endswith("moe") and (getattr(config, "mlp_only_layers", None) or config.decoder_sparse_step != 1):
        problems.append("some of its layers have no experts")
    if (found.name == "qwen2moe" and config.norm_topk_prob) or (found.name == "qwen3moe" and not config.norm_topk_prob):
        problems.append("llama.cpp weighs the chosen experts otherwise (norm_topk_prob)")
    return problems


def add_settings(writer: Any, config: Any, found: Architecture) -> None:
    """Write a model's settings into the metadata of a GGUF file.

    Args:
        writer: a `gguf.GGUFWriter`.
        config: the model's text configuration.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_vocab_size(config.vocab_size)
    if found.name == "llama":
        writer.add_rope_dimension_count(size)
    if found.sliding:
        writer.add_sliding_window(config.sliding_window)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, key, None):
            getattr(writer, f"add_{key}")(getattr(config, key))
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if found.name.endswith("moe"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if found.name == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def context_length(config: Any) -> int:
    """Return the longest text that llama.cpp computes as the model does.

    llama.cpp has no sliding window for Mistral, so within one window both are the same and beyond it they aren't.
    """
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("mistral", "mixtral") and window:
        return int(min(window, config.max_position_embeddings))
    return int(config.max_position_embeddings)
