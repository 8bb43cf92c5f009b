"""Read a recipe: YAML to validated components, with every mistake and its place reported at once."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftp.components import BringsEvals, Curator, Engine, Loader, Watcher
from ftp.data.files import files_of, notes_on, rows_of
from ftp.errors import DataError, RecipeError
from ftp.files import shown
from ftp.guard import call
from ftp.mistakes.explain import explain
from ftp.options import Decoding
from ftp.plugins import Plugins, missing_packages
from ftp.recipe.checks import cross_check
from ftp.recipe.model import Recipe, Source, reads_answers
from ftp.slots import Slots
from ftp.yaml_source import Path_, dotted, override, parse_file

VALIDATION = 0.1
"""Share of the domain rows to validate on if a recipe doesn't say."""
LOOKED_AT = 200
"""Number of a source's rows shown to a formatter that chooses by the data."""


def read(file: Path, plugins: Plugins, settings: Sequence[str] = ()) -> Recipe:
    """Read, override, validate and cross-check a recipe.

    Raises:
        RecipeError: with every problem found, each with its place.
    """
    document = parse_file(file)
    if not document.places:
        raise RecipeError([f"{file}:1:1: the recipe is empty; `ftp init` writes one to start from"])
    if not isinstance(document.data, dict):
        raise RecipeError([f"{file}:1:1: a recipe is a block of keys such as `name:` and `model:`"])
    for setting in settings:
        override(document, setting)
    if clashes := [document.described(path, what) for path, what in _clashes(document.data, plugins)]:
        raise RecipeError(clashes)
    slots, model = _slots_of(plugins)
    _name_the_engine(document.data, slots)
    try:
        # JSON mode is strict about types ("3" is no number, true is no integer) and lenient about containers.
        checked = model.model_validate_json(
            json.dumps(document.data), strict=True, context={"directory": str(file.absolute().parent)}
        )
    except ValidationError as error:
        raise RecipeError(document.problems + list(explain(error, model, document, plugins))) from None
    recipe, problems = _with_formats(slots.rebuilt(Recipe, checked), slots)
    problems += cross_check(recipe, plugins)
    recipe, more = _with_defaults(recipe, plugins, slots)
    found = [document.described(path, what) for path, what in problems + more]
    if document.problems or found:
        raise RecipeError(document.problems + found)
    return recipe


@functools.lru_cache(maxsize=8)
def _slots_of(plugins: Plugins) -> tuple[Slots, type[Recipe]]:
    """Return the slots and the model of a recipe for these plugins; building them takes longer than reading."""
    slots = Slots(plugins)
    return slots, slots.model(Recipe)


def _name_the_engine(data: dict[str, Any], slots: Slots) -> None:
    """Name the default engine in an `answers:` block without `use:`, as recipes written for FTP 0.1 have it."""
    given, engine = data.get("answers"), _default_engine(slots)
    if isinstance(given, dict) and "use" not in given and engine is not None:
        data["answers"] = {"use": engine.used_as, **given}


def _default_engine(slots: Slots) -> Engine | None:
    engines = slots.without_options(Engine, lambda cls: cls.by_default)  # type: ignore[type-abstract]
    return engines[0] if engines else None


def _clashes(block: Any, plugins: Plugins, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """Find the names in a recipe that two plugins offer: a recipe can't say which of them it means."""
    if isinstance(block, dict):
        if isinstance(block.get("use"), str) and (what := plugins.clash_of(block["use"])):
            yield (*path, "use"), what
        for key, value in block.items():
            yield from _clashes(value, plugins, (*path, key))
    elif isinstance(block, list):
        for at, value in enumerate(block):
            yield from _clashes(value, plugins, (*path, at))


def _with_formats(recipe: Recipe, slots: Slots) -> tuple[Recipe, list[tuple[Path_, str]]]:
    """Let formatters that choose by the data look at the first rows, so that the recipe contains their choice."""
    chosen: dict[Path_, Source] = {}
    problems: list[tuple[Path_, str]] = []
    findings: list[str] = []
    for path, source in recipe.data.sources():
        findings += _notes_on(path, source)
        if not source.format.chooses_by_data():
            continue
        if source.path is None:
            problems.append(((*path, "format"), "can't look at a hub data set before the run; name its format"))
            continue
        try:
            files = files_of(source.path)
            rows = (row.values for file in files for row in rows_of(file, source.reading) if row.values is not None)
            formatter, evidence = call(tuple, source.format.settle, list(islice(rows, LOOKED_AT)))
        except DataError as error:
            problems.append(((*path, "format"), str(error)))
            continue
        chosen[path] = source.model_copy(update={"format": slots.named(formatter)})
        findings.append(f"{dotted(path)}: {evidence}")
    if chosen:
        # Only then: a copy counts what it is given as set by the recipe.
        data = recipe.data
        sources = {
            "train": [chosen.get(("data", "train", at), source) for at, source in enumerate(data.train)],
            "validation": chosen.get(("data", "validation"), data.validation),
            "evals": {name: chosen.get(("data", "evals", name), source) for name, source in data.evals.items()},
        }
        recipe = recipe.model_copy(update={"data": data.model_copy(update=sources)})
    recipe._findings = tuple(findings)
    return recipe, problems


def _notes_on(path: Path_, source: Source) -> Iterator[str]:
    """Yield what had to be detected to read the files of a source, each with the first file that it holds for."""
    try:
        files = files_of(source.path) if source.path else []
    except DataError:  # reading the rows reports it
        return
    by_note: dict[str, list[Path]] = {}
    for file in files:
        if note := notes_on(file, source.reading):
            by_note.setdefault(note, []).append(file)
    for note, of in by_note.items():
        more = f" and {len(of) - 1} more" if len(of) > 1 else ""
        yield f"{dotted(path)}: {shown(of[0], Path.cwd())}{more}: detected {note}"


def _with_defaults(recipe: Recipe, plugins: Plugins, slots: Slots) -> tuple[Recipe, list[tuple[Path_, str]]]:
    """Fill in defaults that depend on several blocks and on what is installed.

    They are the validation share, the curators that guard eval sets, the watchers, and the engine.
    """
    data = recipe.data
    update: dict[str, Any] = {}
    if data.validation is None and not any(curator.splits for curator in data.curate):
        update["validation"] = VALIDATION
    guards: list[Curator] = []
    problems: list[tuple[Path_, str]] = []
    if data.evals or any(e.on_its_own and isinstance(e, BringsEvals) for e in recipe.evaluate):
        named = [type(curator) for curator in data.curate]
        guards = slots.without_options(
            Curator,  # type: ignore[type-abstract]
            lambda cls: cls.guards_evals and not any(issubclass(curator, cls) for curator in named),
        )
    for guard in guards:
        place = ("data", "evals") if data.evals else ("evaluate",)
        offer, clash = plugins.offer_of(guard), plugins.clash_of(guard.used_as, "curators")
        problems += [(place, missing) for missing in (missing_packages(offer) if offer else ())]
        problems += [(place, clash)] if clash else []
    if guards:
        update["curate"] = [*guards, *data.curate]
    changed: dict[str, Any] = {"data": data.model_copy(update=update)} if update else {}
    if recipe.watch is None:
        changed["watch"] = slots.without_options(Watcher, lambda cls: cls.by_default_with(recipe.train))
        clashes = [plugins.clash_of(watcher.used_as, "watchers") for watcher in changed["watch"]]
        problems += [(("watch",), clash) for clash in clashes if clash]
    if recipe.answers is None and reads_answers(recipe):
        changed["answers"] = _default_engine(slots)
        if changed["answers"] is None:
            problems.append((("evaluate",), "reads answers, and no engine that answers by default is installed"))
    if recipe.against:
        changed["against"] = _decoding_alike(recipe, changed.get("answers", recipe.answers))
    return (recipe.model_copy(update=changed) if changed else recipe), problems


def _decoding_alike(recipe: Recipe, answers: Engine | None) -> dict[str, Loader | Engine]:
    """Return the contestants; an engine among them answers as `answers:` says where its own block doesn't."""
    if answers is None:
        return recipe.against
    found: dict[str, Loader | Engine] = {}
    for name, component in recipe.against.items():
        if isinstance(component, Engine):
            unsaid = set(Decoding.model_fields) - component.model_fields_set
            component = component.model_copy(update={field: getattr(answers, field) for field in unsaid})
        found[name] = component
    return found
