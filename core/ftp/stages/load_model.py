"""Load the base model of a recipe and apply the adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def load_base_model(loader: Loader, adapter: Adapter | None, note: Callable[[str], object]) -> LoadedModel:
    """Load a base model as the adapter requires.

    Args:
        adapter: the adapter that will be applied; None for the model as it is.
        note: called with each message for the user.

    Raises:
        ModelError: the model can't be loaded, or not in the way that the adapter requires.
    """
    allocator.keep_large_blocks()
    request = call(ModelRequest, loader.describe)
    if adapter:
        request = call(ModelRequest, adapter.prepare, request)
    loaded = call(LoadedModel, loader.load, request)
    for text in loaded.notes:
        note(text)
    return loaded


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
