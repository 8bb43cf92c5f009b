"""The model of a run, loaded again from its directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ftp.errors import ModelError, RunError
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory
from ftp.stages.load_model import load_base_model, restore_adapter
from ftp.types import LoadedModel, Weights


def load_trained(
    recipe: Recipe,
    directory: RunDirectory,
    weights: Weights = "trained",
    note: Callable[[str], object] = lambda text: None,
) -> LoadedModel:
    """Load the base model of a run and put its trained weights on it.

    Args:
        recipe: that of the run.
        weights: which form of the base model; see `ftp.types.Weights`.
        note: called with each sentence that the user should read.

    Raises:
        RunError: the run has no trained model yet, or the base model is not the one that it was trained on.
        ModelError: the model can't be loaded, or the trained weights can't be put on it.
    """
    return restored(recipe, in_form(load_base_of(recipe, directory, note), weights), directory)


def load_base_of(
    recipe: Recipe, directory: RunDirectory, note: Callable[[str], object] = lambda text: None
) -> LoadedModel:
    """Load the base model of a run as it was loaded for training; see `load_trained`."""
    if "train" not in directory.stages():
        raise RunError(f"{directory.path}: no trained model in it; `ftp resume {directory.path}` goes on with it")
    before = (directory.read_json("run.lock.json") or {}).get("model", {})
    base = load_base_model(recipe.model, recipe.adapter, note, before if _device_is_here(before) else None)
    if before.get("fingerprint") != base.fingerprint:
        raise RunError(f"{directory.path}: the base model {base.name} is not the one that it was trained on")
    return base


def _device_is_here(recorded: Mapping[str, Any]) -> bool:
    """Return whether this machine has the kind of device that a model was trained on, whose data types fit it."""
    import torch

    kind = str(recorded.get("device", "")).split(":")[0]
    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())


def restored(recipe: Recipe, base: LoadedModel, directory: RunDirectory) -> LoadedModel:
    """Put the trained weights of a run on a base model.

    Raises:
        ModelError: the adapter of the recipe can't, or the weights are damaged or don't fit.
    """
    tuned = restore_adapter(recipe.adapter, base, directory.path / "model")
    if tuned is None:
        raise ModelError(f"'{recipe.adapter.used_as}' can't be restored from disk")
    return tuned


def in_form(base: LoadedModel, weights: Weights) -> LoadedModel:
    """Return a base model in the form that an export wants; one that isn't quantised is what it is.

    Raises:
        ModelError: it can't be loaded without its quantisation.
    """
    if weights == "trained" or base.request.quantization is None:
        return base
    from ftp.lm.torch_weights import add_token_rows, dequantized

    request = dataclasses.replace(base.request, quantization=None)
    if weights == "plain":
        return dataclasses.replace(base, model=dequantized(base.model, base.request.dtype), request=request)
    if base.unquantized is None:
        raise ModelError(f"{base.name} can't be loaded with the weights that it had before it was quantised")
    model = base.unquantized()
    if base.new_tokens:
        add_token_rows(model, base.new_tokens)
    model.generation_config = base.model.generation_config
    return dataclasses.replace(base, model=model, request=request)
