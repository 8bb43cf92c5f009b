"""Modules of a model that adapters select or change: decoder layers, embeddings, output head."""

from __future__ import annotations

from typing import Any

import torch

import ftp


def decoder_layers(model: Any) -> tuple[str, Any]:
    """Return the path of a causal model's decoder layers and the `torch.nn.ModuleList` of them.

    Raises:
        ModelError: they are not where they usually are.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, module
    raise ftp.ModelError(f"{type(model).__name__} has no list of decoder layers; leave adapter.layers at all")


def path_of(model: Any, module: Any) -> str:
    """Return the path of a module in a model."""
    return next(str(name) for name, found in model.named_modules() if found is module)


def is_tied(model: Any) -> bool:
    """Return whether the output head shares the weights of the embeddings."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def new_rows(loaded: ftp.LoadedModel, saved_modules: list[str]) -> dict[str, list[int]] | None:
    """Return the rows of the new tokens by module: of the embeddings, and of the output head if it has its own.

    Args:
        saved_modules: last path parts of modules that train in full, so that their rows need not be listed.
    """
    if not loaded.new_tokens:
        return None
    model = loaded.model
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = {path_of(model, module): module for module in (embeddings, head)}
    whole = [path for path in modules if path.rsplit(".", 1)[-1] in saved_modules]
    if is_tied(model) and whole:
        return None
    rows = {path: list(loaded.new_tokens) for path in modules if path not in whole}
    for path in rows:
        if getattr(modules[path], "bias", None) is not None:
            # peft takes the product with the new rows and leaves the bias out.
            name = path.rsplit(".", 1)[-1]
            raise ftp.ModelError(
                f"{loaded.name}: '{path}' has a bias, so rows of it can't train alone; set adapter.modules_to_save: "
                f"[{name}]"
            )
    if is_tied(model):
        del rows[path_of(model, head)]  # peft lets the head follow
    return rows or None


def look_like_layers(model: Any) -> None:
    """Give peft's wrappers for new rows the attributes that other code expects of embeddings and of a linear head."""
    for wrapper in (model.get_input_embeddings(), model.get_output_embeddings()):
        if hasattr(wrapper, "token_adapter"):
            layer = wrapper.token_adapter.base_layer
            for name in ("num_embeddings", "embedding_dim", "in_features", "out_features", "bias"):
                if hasattr(layer, name):
                    setattr(wrapper, name, getattr(layer, name))
