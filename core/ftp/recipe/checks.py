"""Checks that span several blocks of a recipe: pairs that don't fit, rows that are read twice, unused keys.

Checks of one component against the rest of the recipe are methods of its class: `cross_problems` and `warnings`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from ftp.components import Component, Curator, Engine
from ftp.data.files import files_of, unread_options
from ftp.data.slices import Slice, overlap, problem_of_files
from ftp.errors import DataError
from ftp.files import shown
from ftp.guard import call
from ftp.plugins import Plugins, missing_packages
from ftp.recipe.model import Recipe, Source, components_of, reads_answers
from ftp.yaml_source import Path_, dotted

Problems = Iterator[tuple[Path_, str]]


def cross_check(recipe: Recipe, plugins: Plugins) -> Problems:
    """Yield the problems that span several blocks: pairs that don't fit, and keys that nothing would read."""
    return chain(
        _sources(recipe),
        _kinds_of_example(recipe),
        _held_out(recipe),
        _read_twice(recipe),
        _evaluators(recipe),
        _engines(recipe),
        _roles(recipe, plugins),
        _splitters(recipe),
        _exports(recipe),
        _components(recipe, plugins),
    )


def warnings(recipe: Recipe) -> Problems:
    """Yield what the components warn of: settings that deserve a second look."""
    for path, component in components_of(recipe):
        yield from _placed(path, component, call(list, component.warnings, recipe))


def _components(recipe: Recipe, plugins: Plugins) -> Problems:
    """Yield missing packages, and what the components find wrong with themselves or with the recipe around them."""
    for path, component in components_of(recipe):
        offer = plugins.offer_of(component)
        if offer is None:
            what = "which no plugin in use offers; name another"
            yield path, f"the default is a {type(component).__name__}, {what}"
        else:
            yield from ((path, missing) for missing in missing_packages(offer))
        found = [*call(list, component.problems), *call(list, component.cross_problems, recipe)]
        yield from _placed(path, component, found)


def _placed(path: Path_, component: Component, problems: Iterable[str]) -> Problems:
    """Yield each problem with its place: the option that it begins with, or else the component."""
    for problem in problems:
        option, colon, what = problem.partition(": ")
        yield ((*path, option), what) if colon and option in type(component).model_fields else (path, problem)


def _sources(recipe: Recipe) -> Problems:
    for path, source in recipe.data.sources():
        yield from _unread_keys(path, source)
        if (source.path is None) == (source.hub is None):
            yield path, "needs either `path:` or `hub:`"
        if source.hub is None and source.revision is not None:
            yield (*path, "revision"), "applies only to a `hub:` source; remove it"
        if source.hub is None and source.split is not None and (problem := problem_of_files(source.split)):
            yield (*path, "split"), problem
        if source.weight != 1 and (path[1] != "train" or not recipe.train.weighs_rows):
            what = f"the trainer '{recipe.train.used_as}' reads none" if path[1] == "train" else "is for training rows"
            yield (*path, "weight"), f"{what}; remove it"
        if path[1] == "evals" and source.role != "domain":
            yield (*path, "role"), "an eval set has no role; remove it"


def _unread_keys(path: Path_, source: Source) -> Problems:
    """Yield options of reading that no file of the source has a use for."""
    for key, types in unread_options(source.path, source.reading):
        yield (*path, key), f"applies only to {', '.join(types)} files; remove it"


def _held_out(recipe: Recipe) -> Problems:
    """Yield what keeps eval sets from being drawn from the training rows, and evaluators that can't score them."""
    makes = dict.fromkeys(source.format.makes for source in recipe.data.train if source.role == "domain")
    for name in recipe.data.held_out:
        missing = [package for package in ("numpy", "scipy", "rensa") if importlib.util.find_spec(package) is None]
        if missing:
            yield ("data", "evals", name), f"needs {', '.join(missing)}: pip install 'ftp-finetune[train]'"
        for index, evaluator in enumerate(recipe.evaluate):
            for kind in makes:
                if not evaluator.on_its_own and kind not in evaluator.takes:
                    takes = f"'{evaluator.used_as}' takes {', '.join(evaluator.takes)} examples"
                    yield ("evaluate", index), f"{takes} and data.evals.{name} holds {kind}"


def _kinds_of_example(recipe: Recipe) -> Problems:
    """Yield formatters whose kind of example the trainer or an evaluator doesn't take."""
    trainer = recipe.train
    for path, source in recipe.data.sources():
        kind = source.format.makes
        if path[1] != "evals" and kind not in trainer.takes:
            takes = f"the trainer '{trainer.used_as}' takes {', '.join(trainer.takes)}"
            yield (*path, "format"), f"'{source.format.used_as}' makes {kind} examples and {takes}"
        for index, evaluator in enumerate(recipe.evaluate if path[1] == "evals" else ()):
            if not evaluator.on_its_own and kind not in evaluator.takes:
                takes = f"'{evaluator.used_as}' takes {', '.join(evaluator.takes)} examples"
                yield ("evaluate", index), f"{takes} and {dotted(path)} holds {kind}"


def _evaluators(recipe: Recipe) -> Problems:
    on_evals = [evaluator for evaluator in recipe.evaluate if not evaluator.on_its_own]
    if on_evals and not recipe.data.evals:
        yield ("evaluate",), "there is nothing to evaluate on; name an eval set under data.evals"
    if recipe.data.evals and not on_evals:
        yield ("data", "evals"), "no evaluator reads these; add one under `evaluate:`"
    if "answers" in recipe.model_fields_set and not reads_answers(recipe):
        yield ("answers",), "no evaluator of this recipe reads answers; remove it"


def _engines(recipe: Recipe) -> Problems:
    """Yield engines in the wrong place, and contestants that nothing compares."""
    if recipe.answers is not None and recipe.answers.own_model:
        what = "has a model of its own, so it can't answer for the base and the tuned model"
        yield ("answers",), f"'{recipe.answers.used_as}' {what}; name it under `against:`"
    samples = recipe.answers.samples if recipe.answers else 1
    for name, component in recipe.against.items():
        if name in ("base", "tuned"):
            yield ("against", name), f"the {name} model is called so already; choose another name"
        if not isinstance(component, Engine):
            continue
        if not component.own_model:
            yield ("against", name), f"'{component.used_as}' has no model of its own; name a loader or another engine"
        if "samples" in component.model_fields_set and component.samples != samples:
            yield (
                ("against", name, "samples"),
                f"answers are compared in pairs, so it has to be {samples} as in `answers:`",
            )
    if recipe.against and not any(not evaluator.on_its_own for evaluator in recipe.evaluate):
        yield ("against",), "nothing compares them; add an evaluator under `evaluate:` and an eval set"


def _roles(recipe: Recipe, plugins: Plugins) -> Problems:
    """Yield roles other than `domain` that no curator handles."""
    handled = {role for curator in recipe.data.curate for role in curator.handles}
    sources = [(source.role, path) for path, source in recipe.data.sources() if path[1] != "evals"]
    for role, path in dict(reversed(sources)).items():  # the first source of each
        if role != "domain" and role not in handled:
            offers = plugins.offers("curators").values()
            able = [o.name for o in offers if issubclass(o.component, Curator) and role in o.component.handles]
            advice = "".join(f"; add `- {{use: {name}, …}}` to data.curate" for name in able[:1])
            yield (*path, "role"), f"no curator decides how many {role} rows are trained on{advice}"
    if all(source.role != "domain" for source in recipe.data.train):
        yield ("data", "train"), f"has {recipe.data.train[0].role} rows only; a run needs domain rows"


def _splitters(recipe: Recipe) -> Problems:
    splitters = [index for index, curator in enumerate(recipe.data.curate) if curator.splits]
    if splitters and recipe.data.validation is not None:
        use = recipe.data.curate[splitters[0]].used_as
        yield ("data", "validation"), f"the curator '{use}' makes the validation split; remove one of the two"
    for index in splitters[1:]:
        yield ("data", "curate", index), "there can be only one validation split; remove one of the two"


def _exports(recipe: Recipe) -> Problems:
    """Yield exports that would take another's place."""
    folders: dict[str, int] = {}
    for index, exporter in enumerate(recipe.export):
        first = folders.setdefault(exporter.place, index)
        if first != index:
            yield ("export", index), f"writes into exports/{exporter.place} as export.{first} does; give it a `folder:`"


def _read_twice(recipe: Recipe) -> Problems:
    """Yield files, or splits of a hub data set, that are read twice: validation and eval rows are never trained on."""
    readers: dict[str, list[tuple[Path_, Slice]]] = {}
    for path, source in recipe.data.sources():
        shared: dict[Path_, list[str]] = {}
        for place in _places_of(source):
            others = readers.setdefault(place, [])
            for other in [other for other, rows in others if overlap(rows, source.slice)][:1]:
                shared.setdefault(other, []).append(place)
            others.append((path, source.slice))
        for other, places in shared.items():
            key = "path" if source.path else "hub"
            leak = other[1] != path[1] and "train" in (other[1], path[1])
            and_more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            first = shown(Path(places[0]), Path.cwd()) if source.path else places[0]
            why = "a leak: these rows would be trained on" if leak else "read each file once"
            yield (*path, key), f"{dotted(other)} reads {first}{and_more} too; {why}"


def _places_of(source: Source) -> list[str]:
    if source.hub is not None:
        return [f"{source.hub}/{source.slice.name}"]
    if source.path is None:
        return []
    try:
        return [str(file.resolve()) for file in files_of(source.path)]
    except (DataError, ValueError, OSError):  # nothing there: reading the rows will say so
        return [source.path]
