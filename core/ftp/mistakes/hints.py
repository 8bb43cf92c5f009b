"""Where a key belongs that stands in a block which doesn't know it: a misplaced one, or another tool's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from ftp.components import Component
from ftp.errors import did_you_mean
from ftp.slots import Slot

OTHER_WORDS = {
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "train_file", "train_dataset", "train_data"), "data.train"),
    **dict.fromkeys(("val_set_size", "val_size", "validation_split", "validation_file", "val_data"), "data.validation"),
    **dict.fromkeys(("test_size", "test_datasets", "test_file", "eval_dataset", "test"), "data.evals"),
    **dict.fromkeys(("random_seed", "data_seed", "manual_seed"), "seed"),
    **dict.fromkeys(("run_name", "project", "experiment_name"), "name"),
    **dict.fromkeys(("metrics", "evaluators", "evaluation"), "evaluate"),
    **dict.fromkeys(("callbacks", "report_to"), "watch"),
    **dict.fromkeys(("base_model", "model_name_or_path", "model_id"), "model"),
    **dict.fromkeys(("peft", "peft_config", "lora_config"), "adapter"),
    **dict.fromkeys(("trainer", "training", "training_arguments"), "train"),
    **dict.fromkeys(("generation", "generation_config"), "answers"),
}
"""What other tools call parts of a recipe. Components know the other names of their own options (`also_known_as`)."""
ON_THE_COMMAND_LINE = {
    **dict.fromkeys(("output_dir", "output", "save_dir"), "`ftp run --runs DIRECTORY`"),
    "resume_from_checkpoint": "`ftp resume`, or the same `ftp run` again",
}


def where_it_belongs(key: str, here: set[type[BaseModel]], whole: type[BaseModel], data: Any) -> str:
    """Return what to write in place of an unknown key, or the keys that are known.

    Args:
        here: the blocks that the key could stand in.
        whole: the model of the recipe.
        data: the recipe as it was given.
    """
    for block in here:
        if known := _aliases(block).get(key):
            return f"; here it is '{known}'"
    places: dict[str, list[str]] = {}
    for place, use in [*_places(key, whole, ())] or _in_lists(key, whole):
        places.setdefault(place, []).append(use)
    if places:
        named = [_named(place, [] if "" in uses else uses, data) for place, uses in places.items()]
        return f"; here it is {' or '.join(named[:3])}"
    if key in OTHER_WORDS:
        return f"; here it is {OTHER_WORDS[key]}"
    if key in ON_THE_COMMAND_LINE:
        return f"; here it is {ON_THE_COMMAND_LINE[key]}"
    return did_you_mean(key, {name for block in here for name in block.model_fields})


def _places(key: str, model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Find the options of this name, or that other tools call so: each with its path and the component's name."""
    for name, field in model.model_fields.items():
        within = (*path, name)
        listed = _is_list(field.annotation)
        if path and name == key:
            yield ".".join(within), ""
        elif not path and name == key:
            yield name, ""
        for block in blocks_in(field.annotation):
            if issubclass(block, Component):
                if not listed:  # which entry of a list it is for, nobody knows
                    yield from _in_component(key, block, within)
            elif not listed and len(path) < 2:
                yield from _places(key, block, within)
                if known := _aliases(block).get(key):
                    yield ".".join((*within, known)), ""


def _in_lists(key: str, whole: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Find what other tools call so among the components that a recipe lists, such as its watchers."""
    for name, field in whole.model_fields.items():
        for block in blocks_in(field.annotation) if _is_list(field.annotation) else ():
            known = _aliases(block).get(key) if issubclass(block, Component) else None
            use = next(iter(tags_of(block)), "")
            if known is not None:
                yield (f"{name}.{known}", use) if known else (f"{name}: [{{use: {use}}}]", "")


def _in_component(key: str, block: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    use = next(iter(tags_of(block)), "")
    known = key if key in block.model_fields and key != "use" else _aliases(block).get(key)
    if known == "":
        yield f"{'.'.join(path)}: {{use: {use}}}", ""
    elif known is not None:
        yield ".".join((*path, known)), use if block.model_fields["use"].is_required() else ""


def _named(place: str, uses: list[str], data: Any) -> str:
    """Name a place, with its component where the recipe has another one there."""
    block = data.get(place.partition(".")[0]) if isinstance(data, dict) else None
    if not uses or (isinstance(block, dict) and block.get("use") in uses):
        return place
    return f"{place} (of {' or '.join(f'`use: {use}`' for use in uses)})"


def _aliases(block: type[BaseModel]) -> Mapping[str, str]:
    aliases: Mapping[str, str] = getattr(block, "also_known_as", {})
    return aliases


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in (list, dict):
        return True
    return any(_is_list(argument) for argument in get_args(annotation))


def blocks_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """Return the blocks that a field of this type may be of, or hold, in order."""
    if isinstance(annotation, type) and issubclass(annotation, Slot):
        return blocks_in(annotation.block())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return dict.fromkeys(model for argument in get_args(annotation) for model in blocks_in(argument))


def tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Return what `use:` may say for this block; nothing for a block that is no component."""
    use = model.model_fields.get("use")
    return get_args(use.annotation) if use else ()
