"""Load the base model of a recipe and apply the adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftp.components import Adapter, Loader, LoadsTokenizer
from ftp.errors import ComponentError, ModelError
from ftp.guard import call, described
from ftp.lm import allocator
from ftp.recipe.model import Recipe
from ftp.types import LoadedModel, LoadedTokenizer, ModelRequest


def load_tokenizer(loader: Loader) -> LoadedTokenizer | None:
    """Load the tokenizer without weights; None where the loader can't."""
    if not isinstance(loader, LoadsTokenizer):
        return None
    return call(LoadedTokenizer | None, loader.load_tokenizer)


def load_base_model(
    loader: Loader,
    adapter: Adapter | None,
    note: Callable[[str], object],
    recorded: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a base model as the adapter requires.

    Args:
        adapter: the adapter that will be applied; None for the model as it is.
        note: called with each message for the user.
        recorded: the entry `model` in the lock of the run that it is loaded for; its types are used where the recipe
            leaves them to the machine. None to measure what the machine multiplies fastest.

    Raises:
        ModelError: the model can't be loaded, or not in the way that the adapter requires.
    """
    allocator.keep_large_blocks()
    request = call(ModelRequest, loader.describe)
    if adapter:
        request = call(ModelRequest, adapter.prepare, request)
    if recorded:
        request = _with_types_of(recorded, request)
    loaded = call(LoadedModel, loader.load, request)
    for text in loaded.notes:
        note(text)
    return loaded


def _with_types_of(recorded: Mapping[str, Any], request: ModelRequest) -> ModelRequest:
    """Return the request with the data types that a run began with in place of `auto`."""
    quantization, before = request.quantization, recorded.get("quantization") or {}
    if quantization is not None and quantization.compute_dtype == "auto":
        quantization = dataclasses.replace(quantization, compute_dtype=before.get("compute_dtype", "auto"))
    return dataclasses.replace(
        request,
        dtype=recorded["dtype"] if request.dtype == "auto" else request.dtype,
        quantization=quantization,
        compute=recorded.get("compute") or _compute_before_0_2(str(recorded.get("device", "cpu"))),
    )


def _compute_before_0_2(device: str) -> str:
    """Return the type in which an older release multiplied: its locks don't name it."""
    from ftp.lm.torch_devices import pick_dtype

    return pick_dtype(device)


def apply_adapter(recipe: Recipe, loaded: LoadedModel, note: Callable[[str], object]) -> LoadedModel:
    """Apply the adapter of a recipe to a loaded model; its initial weights are drawn with the recipe's seed.

    Args:
        note: called with each message for the user, besides those of the load.
    """
    import transformers

    transformers.set_seed(recipe.seed)
    adapted = call(LoadedModel, recipe.adapter.apply, loaded)
    if not any(weight.requires_grad for weight in adapted.model.parameters()):
        raise ComponentError(f"{described(recipe.adapter)}: apply returned a model in which nothing trains")
    for text in adapted.notes[len(loaded.notes) :]:
        note(text)
    return adapted


def restore_adapter(adapter: Adapter, loaded: LoadedModel, directory: Path) -> LoadedModel | None:
    """Put the trained weights in a directory on a loaded model; None if the adapter can't.

    Raises:
        ModelError: they are damaged, or don't fit the model.
        ComponentError: the adapter returned something else than a model or None.
    """
    try:
        return call(LoadedModel | None, adapter.restore, loaded, directory)
    except ComponentError as error:
        if error.__cause__ is None:  # it returned something else
            raise
        # The libraries raise many kinds of errors for weights that are damaged or don't fit.
        what = " ".join(str(error).split())[:500]
        raise ModelError(f"{directory}: damaged, or doesn't fit {loaded.name}: {what}") from error


def give_memory_back() -> None:
    """Return free memory to the system, between stages that need blocks of other sizes."""
    allocator.give_back()
