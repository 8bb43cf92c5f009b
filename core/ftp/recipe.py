"""The recipe: YAML to validated components, every mistake at once with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError, to_jsonable_python

from ftp.answers import AnswerOptions
from ftp.components import (
    KINDS,
    Adapter,
    Component,
    Evaluator,
    Loader,
    Options,
    Reporter,
    Share,
    Trainer,
)
from ftp.data import Data, Source, shown
from ftp.document import PLAIN_NAME, Path_, dotted, override, parse
from ftp.errors import DataError, PluginError, RecipeError
from ftp.explain import explain
from ftp.plugins import Offer, Plugin, Plugins, missing_packages
from ftp.rows import files_of


class Recipe(Options):
    """One fine-tuning run, from model and data to evidence."""

    name: str = Field(pattern=PLAIN_NAME)
    """Names the run's directory: letters, digits, dots, underscores and dashes."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """For the split, the adapter's first weights, dropout and the order of training."""
    model: Loader
    """The base model."""
    adapter: Adapter
    """Which weights train."""
    data: Data
    """What to learn from."""
    train: Trainer
    """How to train."""
    answers: AnswerOptions = AnswerOptions()
    """How answers are generated for the evaluators."""
    evaluate: list[Evaluator] = Field(default_factory=list)
    """Evaluators, each run on every eval set."""
    report: list[Reporter] = Field(default_factory=list)
    """Reporters. Default: every report that needs no options."""

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, ready for YAML. Read again, it is the same recipe."""
        unread = () if _reads_answers(self) else ("answers",)  # given though nothing reads it, it would be an error
        return {name: _dump(getattr(self, name)) for name in type(self).model_fields if name not in unread}


def _reads_answers(recipe: Recipe) -> bool:
    return any(evaluator.reads_answers for evaluator in recipe.evaluate)


def _dump(value: Any) -> Any:
    if isinstance(value, Component):
        return {"use": value.used_as, **{name: _dump(getattr(value, name)) for name in type(value).model_fields}}
    if isinstance(value, BaseModel):
        return {name: _dump(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _dump(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_dump, value), key=repr)  # in an order that is the same in every process
    if isinstance(value, list | tuple):
        return [_dump(item) for item in value]
    return to_jsonable_python(value)


# --- the model of a recipe, made from what is installed -------------------------------------------------------------


def recipe_model(plugins: Plugins) -> type[Recipe]:
    """Make the pydantic model of a recipe in which every kind is a union over the installed components.

    Raises:
        PluginError: two plugins offer one name.
    """
    if plugins.clashes:
        raise PluginError("\n".join(plugins.clashes))
    block = {kind: _block(plugins.offers(kind)) for kind in KINDS}
    curator, evaluator, reporter = (block[kind] for kind in ("curators", "evaluators", "reporters"))
    source: Any = Annotated[
        create_model(
            "Source", __base__=Source, __cls_kwargs__=_MADE, format=_like(Source, "format", block["formatters"])
        ),
        AfterValidator(_rebuild(Source)),
    ]
    data_model = create_model(
        "Data",
        __base__=Data,
        __cls_kwargs__=_MADE,
        train=_like(Data, "train", list[source]),
        validation=_like(
            Data,
            "validation",
            Annotated[
                Annotated[Share, Tag("share")] | Annotated[source, Tag("source")],
                Discriminator(lambda value: "source" if isinstance(value, dict) else "share"),
            ],
        ),
        evals=_like(Data, "evals", dict[Annotated[str, Field(pattern=PLAIN_NAME)], source]),
        curate=_like(Data, "curate", list[curator]),  # type: ignore[valid-type]
    )
    return create_model(
        "Recipe",
        __base__=Recipe,
        __cls_kwargs__=_MADE,
        model=_like(Recipe, "model", block["loaders"]),
        adapter=_like(Recipe, "adapter", block["adapters"]),
        data=_like(Recipe, "data", Annotated[data_model, AfterValidator(_rebuild(Data))]),
        train=_like(Recipe, "train", block["trainers"]),
        evaluate=_like(Recipe, "evaluate", list[evaluator]),  # type: ignore[valid-type]
        report=_like(Recipe, "report", list[reporter]),  # type: ignore[valid-type]
    )


_MADE: dict[str, Any] = {"use_attribute_docstrings": False}
"""Classes made at run time have no source to look for docstrings in; looking takes longer than all the rest."""


def _like(base: type[BaseModel], name: str, annotation: Any) -> Any:
    """The field of `base` with another type: its default, limits and help stay."""
    return (annotation, base.model_fields[name])


def _block(offers: Mapping[str, Offer]) -> Any:
    """A union over the offered components, told apart by `use`."""
    if not offers:
        return Annotated[Any, AfterValidator(_nothing_installed), WithJsonSchema({"type": "object"})]
    members = [
        Annotated[
            create_model(
                offer.component.__name__,
                __base__=offer.component,
                __cls_kwargs__=_MADE,
                __doc__=offer.component.__doc__,
                use=(Literal[name], Field(description=_first_line(offer.component.__doc__))),  # type: ignore[arg-type]
            ),
            AfterValidator(_rebuild(offer.component, offer.name)),
        ]
        for name, offer in offers.items()
    ]
    if len(members) == 1:  # a union of one has no discriminator
        return members[0]
    # Not Field(discriminator="use"): create_model forgets that one when the field comes with a FieldInfo of its own.
    return Annotated[Union[tuple(members)], Discriminator("use")]  # noqa: UP007


def _nothing_installed(value: object) -> None:
    raise PydanticCustomError("nothing_installed", "nothing of this kind is installed")


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n", 1)[0]


def _rebuild(cls: type[Options], used_as: str = "") -> Any:
    """Instances of classes made at run time neither pickle nor compare equal: hand out the class that was written."""

    def rebuild(block: Options) -> Options:
        values = {name: getattr(block, name) for name in cls.model_fields}
        rebuilt = cls.model_construct(_fields_set=block.model_fields_set - {"use"}, **values)
        if isinstance(rebuilt, Component):
            rebuilt._used_as = used_as
        return rebuilt

    return rebuild


def json_schema(plugins: Plugins) -> dict[str, Any]:
    """The JSON schema (Draft 2020-12) of recipes for what is installed."""
    schema = recipe_model(plugins).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "FTP recipe"}


# --- reading a recipe ------------------------------------------------------------------------------------------------


def read(file: Path, plugins: Plugins, settings: Sequence[str] = ()) -> Recipe:
    """Read, override, validate and cross-check a recipe.

    Raises:
        RecipeError: with every problem found, each with its place.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        where = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        what = f"not UTF-8: byte 0x{error.object[error.start]:02x}; save it as UTF-8"
        raise RecipeError([f"{where}: {what}"]) from None
    except OSError as error:
        raise RecipeError([f"{file}: {error.strerror or error}"]) from None
    document = parse(text, str(file))
    if not document.places:
        raise RecipeError([f"{file}:1:1: the recipe is empty; `ftp init` writes one to start from"])
    if not isinstance(document.data, dict):
        raise RecipeError([f"{file}:1:1: a recipe is a block of keys such as `name:` and `model:`"])
    for setting in settings:
        override(document, setting)
    model = recipe_model(plugins)
    try:
        # JSON mode is strict about types ("3" is no number, true is no integer) and lenient about containers.
        checked = model.model_validate_json(
            json.dumps(document.data), strict=True, context={"directory": str(file.absolute().parent)}
        )
    except ValidationError as error:
        raise RecipeError(document.problems + list(explain(error, model, document, plugins))) from None
    recipe: Recipe = _rebuild(Recipe)(checked)
    problems = [f"{document.place(path)}: {dotted(path)}: {what}" for path, what in _cross_check(recipe, plugins)]
    if document.problems or problems:
        raise RecipeError(document.problems + problems)
    return recipe


def _cross_check(recipe: Recipe, plugins: Plugins) -> Iterator[tuple[Path_, str]]:
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
    if "answers" in recipe.model_fields_set and not _reads_answers(recipe):
        yield ("answers",), "no evaluator of this recipe reads answers; take it out"
    replay = [path for path, source in sources if source.role == "replay"]
    mixers = [index for index, curator in enumerate(recipe.data.curate) if "replay" in curator.handles]
    if replay and not mixers:
        yield (
            (*replay[0], "role"),
            "nothing says how much replay to mix in; add `- {use: mix, replay: 5%}` to curate",
        )
    if mixers and not replay:
        yield ("data", "curate", mixers[0]), "mixes replay rows and no source has `role: replay`"
    if all(source.role == "replay" for _, source in sources[: len(recipe.data.train)]):
        yield ("data", "train"), "has replay rows only; a run needs domain rows"

    for path, component in components_of(recipe):
        offer = plugins.offers(_kind_of(component))[component.used_as]
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


def plugins_of(recipe: Recipe, plugins: Plugins) -> list[Plugin]:
    """The plugins whose components the recipe uses."""
    used = {
        plugins.offers(_kind_of(component))[component.used_as].plugin.name for _, component in components_of(recipe)
    }
    return [plugin for plugin in plugins.plugins if plugin.name in used]


def _kind_of(component: Component) -> str:
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
