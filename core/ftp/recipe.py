"""The recipe: YAML to validated components, every mistake at once with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    PrivateAttr,
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
    Curator,
    Evaluator,
    Formatter,
    Loader,
    Options,
    Reporter,
    Share,
    Trainer,
    Watcher,
)
from ftp.crosscheck import components_of, cross_check, kind_of
from ftp.data import Data, Source
from ftp.document import PLAIN_NAME, Path_, dotted, override, parse
from ftp.errors import DataError, PluginError, RecipeError
from ftp.explain import explain
from ftp.plugins import Offer, Plugin, Plugins, missing_packages
from ftp.rows import files_of, rows_of

VALIDATION = 0.1
"""Share of the domain rows to watch the loss on, where a recipe says nothing of it."""
LOOKED_AT = 200
"""Rows of a source that a formatter which chooses by the data is shown."""


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
    watch: list[Watcher] | None = None
    """Watchers of the training. Default: every installed one that is on by default."""
    answers: AnswerOptions = AnswerOptions()
    """How answers are generated for the evaluators."""
    evaluate: list[Evaluator] = Field(default_factory=list)
    """Evaluators, each run on every eval set."""
    report: list[Reporter] = Field(default_factory=list)
    """Reporters. Default: every report that needs no options."""

    _findings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def findings(self) -> tuple[str, ...]:
        """What formatters that choose by the data found, a sentence for each source."""
        return self._findings

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, ready for YAML. Read again, it is the same recipe."""
        unread = () if reads_answers(self) else ("answers",)  # given though nothing reads it, it would be an error
        return {name: _dump(getattr(self, name)) for name in type(self).model_fields if name not in unread}


def reads_answers(recipe: Recipe) -> bool:
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
    watcher = block["watchers"]
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
            ]
            | None,
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
        watch=_like(Recipe, "watch", list[watcher] | None),  # type: ignore[valid-type]
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
    recipe, problems = _with_formats(_rebuild(Recipe)(checked), plugins)
    problems += cross_check(recipe, plugins)
    recipe, more = _with_defaults(recipe, plugins)
    found = [f"{document.place(path)}: {dotted(path)}: {what}" for path, what in problems + more]
    if document.problems or found:
        raise RecipeError(document.problems + found)
    return recipe


def _with_formats(recipe: Recipe, plugins: Plugins) -> tuple[Recipe, list[tuple[Path_, str]]]:
    """Have formatters that choose by the data look at the first rows, so that the recipe holds what they chose."""
    names = {offer.component: name for name, offer in plugins.offers("formatters").items()}
    problems: list[tuple[Path_, str]] = []
    findings: list[str] = []

    def settled(path: Path_, source: Source) -> Source:
        if type(source.format).settle is Formatter.settle:
            return source
        if source.path is None:
            problems.append(((*path, "format"), "can't look at a hub data set before the run; name its format"))
            return source
        try:
            rows = (row.values for file in files_of(source.path) for row in rows_of(file) if row.values is not None)
            chosen, evidence = source.format.settle(list(islice(rows, LOOKED_AT)))
        except DataError as error:
            problems.append(((*path, "format"), str(error)))
            return source
        chosen._used_as = names[type(chosen)]
        findings.append(f"{dotted(path)}: {evidence}")
        return source.model_copy(update={"format": chosen})

    data = recipe.data
    validation = data.validation
    if isinstance(validation, Source):
        validation = settled(("data", "validation"), validation)
    sources = {
        "train": [settled(("data", "train", at), source) for at, source in enumerate(data.train)],
        "validation": validation,
        "evals": {name: settled(("data", "evals", name), source) for name, source in data.evals.items()},
    }
    if findings:
        # Only then: a copy counts what it is given as set by the recipe.
        recipe = recipe.model_copy(update={"data": data.model_copy(update=sources)})
        recipe._findings = tuple(findings)
    return recipe, problems


def _with_defaults(recipe: Recipe, plugins: Plugins) -> tuple[Recipe, list[tuple[Path_, str]]]:
    """Write out what depends on several blocks and on what is installed: the share for validation, the curators that
    guard eval sets, the watchers."""
    data = recipe.data
    update: dict[str, Any] = {}
    if data.validation is None and not any(curator.splits for curator in data.curate):
        update["validation"] = VALIDATION
    guards: list[Curator] = []
    problems: list[tuple[Path_, str]] = []
    brought = any(e.on_its_own and type(e).own_evals is not Evaluator.own_evals for e in recipe.evaluate)
    guarded = bool(data.evals) or brought
    for name, offer in plugins.offers("curators").items():
        guard = offer.component
        assert issubclass(guard, Curator)
        if guard.guards_evals and guarded and not any(isinstance(curator, guard) for curator in data.curate):
            place = ("data", "evals") if data.evals else ("evaluate",)
            problems += [(place, missing) for missing in missing_packages(offer)]
            guards.append(guard())
            guards[-1]._used_as = name
    if guards:
        update["curate"] = [*guards, *data.curate]
    changed: dict[str, Any] = {"data": data.model_copy(update=update)} if update else {}
    if recipe.watch is None:
        changed["watch"] = _default_watchers(plugins)
    return (recipe.model_copy(update=changed) if changed else recipe), problems


def _default_watchers(plugins: Plugins) -> list[Watcher]:
    watchers = []
    for name, offer in plugins.offers("watchers").items():
        watcher = offer.component
        assert issubclass(watcher, Watcher)
        if watcher.by_default:
            watchers.append(watcher())
            watchers[-1]._used_as = name
    return watchers


def plugins_of(recipe: Recipe, plugins: Plugins) -> list[Plugin]:
    """The plugins whose components the recipe uses."""
    used = {plugins.offers(kind_of(component))[component.used_as].plugin.name for _, component in components_of(recipe)}
    return [plugin for plugin in plugins.plugins if plugin.name in used]
