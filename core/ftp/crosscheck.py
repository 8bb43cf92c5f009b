"""What no single block of a recipe can tell: pairs that don't fit, rows read twice, keys that nothing would read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ftp.components import KINDS, Component
from ftp.data import Source, shown
from ftp.document import Path_, dotted
from ftp.errors import DataError
from ftp.plugins import Plugins, missing_packages
from ftp.rows import files_of

if TYPE_CHECKING:
    from ftp.recipe import Recipe


def cross_check(recipe: Recipe, plugins: Plugins) -> Iterator[tuple[Path_, str]]:
    """What no single block can tell: pairs that don't fit, and keys that nothing would read."""
    sources: list[tuple[Path_, Source]] = [(("data", "train", i), s) for i, s in enumerate(recipe.data.train)]
    if isinstance(recipe.data.validation, Source):
        sources.append((("data", "validation"), recipe.data.validation))
    held_out: list[tuple[Path_, Source]] = [(("data", "evals", name), s) for name, s in recipe.data.evals.items()]

    for path, source in sources + held_out:
        if (source.path is None) == (source.hub is None):
            yield path, "needs `path:` or `hub:`, one of them"
        for key in ("split", "revision"):
            if source.hub is None and getattr(source, key) is not None:
                yield (*path, key), "is read for a `hub:` source only; take it out"
    for path, source in sources:
        if source.format.makes not in recipe.train.takes:
            yield (
                (*path, "format"),
                f"'{source.format.used_as}' makes {source.format.makes} examples and the trainer "
                f"'{recipe.train.used_as}' takes {', '.join(recipe.train.takes)}",
            )
    for path, source in held_out:
        if source.role == "replay":
            yield (*path, "role"), "an eval set has no role; take it out"
        for index, evaluator in enumerate(recipe.evaluate):
            if source.format.makes not in evaluator.takes:
                yield (
                    ("evaluate", index),
                    f"'{evaluator.used_as}' takes {', '.join(evaluator.takes)} examples and {dotted(path)} holds "
                    f"{source.format.makes}",
                )
    yield from _read_twice(sources, held_out)

    if recipe.evaluate and not recipe.data.evals:
        yield ("evaluate",), "there is nothing to evaluate on; name an eval set under data.evals"
    if recipe.data.evals and not recipe.evaluate:
        yield ("data", "evals"), "no evaluator reads these; add one under `evaluate:`"
    if "answers" in recipe.model_fields_set and not any(evaluator.reads_answers for evaluator in recipe.evaluate):
        yield ("answers",), "no evaluator of this recipe reads answers; take it out"
    replay = [path for path, source in sources if source.role == "replay"]
    mixers = [index for index, curator in enumerate(recipe.data.curate) if "replay" in curator.handles]
    if replay and not mixers:
        yield (
            (*replay[0], "role"),
            "nothing says how much replay to mix in; add `- {use: mix, replay: 5%}` to curate",
        )
    # A curator whose option `replay` is left out mixes by something else and needs no such rows.
    asking = [index for index in mixers if getattr(recipe.data.curate[index], "replay", True) is not None]
    if asking and not replay:
        yield ("data", "curate", asking[0]), "mixes replay rows and no source has `role: replay`"
    splitters = [index for index, curator in enumerate(recipe.data.curate) if curator.splits]
    if splitters and recipe.data.validation is not None:
        use = recipe.data.curate[splitters[0]].used_as
        yield ("data", "validation"), f"the curator '{use}' carves the validation rows; take one of the two out"
    for index in splitters[1:]:
        yield ("data", "curate", index), "validation is carved once; take one of the two out"
    if all(source.role == "replay" for _, source in sources[: len(recipe.data.train)]):
        yield ("data", "train"), "has replay rows only; a run needs domain rows"

    for path, component in components_of(recipe):
        offer = plugins.offers(kind_of(component))[component.used_as]
        for missing in missing_packages(offer):
            yield path, missing
        for problem in component.problems():
            option, colon, what = problem.partition(": ")
            yield ((*path, option), what) if colon and option in type(component).model_fields else (path, problem)


def _read_twice(
    sources: Sequence[tuple[Path_, Source]], held_out: Sequence[tuple[Path_, Source]]
) -> Iterator[tuple[Path_, str]]:
    """Each file, or split of a hub data set, is read once: rows that are watched or evaluated are never trained on."""
    readers: dict[str, Path_] = {}
    for path, source in [*sources, *held_out]:
        shared: dict[Path_, list[str]] = {}
        for place in _places_of(source):
            other = readers.setdefault(place, path)
            if other != path:
                shared.setdefault(other, []).append(place)
        for other, places in shared.items():
            key = "path" if source.path else "hub"
            leak = other[1] != path[1] and "train" in (other[1], path[1])
            and_more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            first = shown(Path(places[0]), Path.cwd()) if source.path else places[0]
            why = "a leak: these rows would be trained on" if leak else "read each file once"
            yield (*path, key), f"{dotted(other)} reads {first}{and_more} too; {why}"


def _places_of(source: Source) -> list[str]:
    if source.hub is not None:
        return [f"{source.hub}/{source.split or 'train'}"]
    if source.path is None:
        return []
    try:
        return [str(file.resolve()) for file in files_of(source.path)]
    except (DataError, ValueError, OSError):  # nothing there: reading the rows will say so
        return [source.path]


def kind_of(component: Component) -> str:
    """The kind of a component, as KINDS names it."""
    return next(kind for kind, base in KINDS.items() if isinstance(component, base))


def components_of(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Component]]:
    """Every component of a recipe with its path."""
    if isinstance(value, Component):
        yield path, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from components_of(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from components_of(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from components_of(item, (*path, index))
