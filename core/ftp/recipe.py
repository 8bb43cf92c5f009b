"""The recipe: YAML to validated components, every mistake at once with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
)

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
from ftp.answers import AnswerOptions
from ftp.data import Data, Source
from ftp.errors import PluginError, RecipeError, did_you_mean
from ftp.plugins import Offer, Plugins, missing_packages

Path_ = tuple[str | int, ...]


class Recipe(Options):
    """One fine-tuning run, from model and data to evidence."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
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
        """The recipe with every default written out, ready for YAML."""
        return {name: _dump(getattr(self, name)) for name in type(self).model_fields}


def _dump(value: Any) -> Any:
    if isinstance(value, Component):
        return {"use": value.used_as, **{name: _dump(getattr(value, name)) for name in type(value).model_fields}}
    if isinstance(value, BaseModel):
        return {name: _dump(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_dump(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# --- the model of a recipe, made from what is installed -------------------------------------------------------------


def recipe_model(plugins: Plugins) -> type[Recipe]:
    """Make the pydantic model of a recipe in which every kind is a union over the installed components.

    Raises:
        PluginError: two plugins offer one name.
    """
    if plugins.clashes:
        raise PluginError("\n".join(plugins.clashes))
    block = {kind: _block(plugins.offers(kind)) for kind in KINDS}
    source = create_model("Source", __base__=Source, format=(block["formatters"], ...))
    data = create_model(
        "Data",
        __base__=Data,
        train=_like(Data, "train", list[source]),  # type: ignore[valid-type]
        validation=_like(
            Data,
            "validation",
            Annotated[
                Annotated[Share, Tag("share")] | Annotated[source, Tag("source")],
                Discriminator(lambda value: "source" if isinstance(value, dict) else "share"),
            ],
        ),
        evals=_like(Data, "evals", dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], source]),  # type: ignore[valid-type]
        curate=_like(Data, "curate", list[block["curators"]]),  # type: ignore[valid-type]
    )
    return create_model(
        "Recipe",
        __base__=Recipe,
        model=_like(Recipe, "model", block["loaders"]),
        adapter=_like(Recipe, "adapter", block["adapters"]),
        data=_like(Recipe, "data", data),
        train=_like(Recipe, "train", block["trainers"]),
        evaluate=_like(Recipe, "evaluate", list[block["evaluators"]]),  # type: ignore[valid-type]
        report=_like(Recipe, "report", list[block["reporters"]]),  # type: ignore[valid-type]
    )


def _like(base: type[BaseModel], name: str, annotation: Any) -> Any:
    """The field of `base` with another type: its default, limits and help stay."""
    return (annotation, base.model_fields[name])


def _block(offers: Mapping[str, Offer]) -> Any:
    """A union over the offered components, told apart by `use`."""
    if not offers:
        return Component
    members = [
        Annotated[
            create_model(
                offer.component.__name__,
                __base__=offer.component,
                __doc__=offer.component.__doc__,
                use=(Literal[name], Field(description=_first_line(offer.component.__doc__))),  # type: ignore[valid-type]
            ),
            AfterValidator(_rebuild(offer)),
        ]
        for name, offer in offers.items()
    ]
    if len(members) == 1:  # a union of one has no discriminator
        return members[0]
    return Annotated[Union[tuple(members)], Field(discriminator="use")]  # noqa: UP007


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n", 1)[0]


def _rebuild(offer: Offer) -> Any:
    """Instances of classes made at run time don't pickle: hand out the plugin's own class."""

    def rebuild(block: Component) -> Component:
        cls = offer.component
        values = {name: getattr(block, name) for name in cls.model_fields}
        component = cls.model_construct(_fields_set=block.model_fields_set - {"use"}, **values)
        component._used_as = offer.name
        return component

    return rebuild


def json_schema(plugins: Plugins) -> dict[str, Any]:
    """The JSON schema (Draft 2020-12) of recipes for what is installed."""
    schema = recipe_model(plugins).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "FTP recipe", **schema}


# --- YAML with places ------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: `1e-4` is one, and a date is a string."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class _Document:
    """A parsed recipe and where each value stands."""

    file: str
    data: Any
    places: dict[Path_, str]
    problems: list[str]

    def place(self, path: Path_) -> str:
        """The place of a path, or of the nearest enclosing block."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, self.file)


def _parse(text: str, file: str) -> _Document:
    document = _Document(file, None, {}, [])
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError([f"{file}:1:1: the recipe is empty; `ftp init` writes one to start from"])
        document.data = _construct(loader, node, (), document, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise RecipeError([f"{where}: not valid YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise RecipeError([f"{file}: not valid YAML: {' '.join(str(error).split())}"]) from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]
    return document


def _construct(loader: _Loader, node: yaml.Node, path: Path_, document: _Document, above: tuple[int, ...]) -> Any:
    mark = node.start_mark
    here = f"{document.file}:{mark.line + 1}:{mark.column + 1}"
    document.places[path] = here
    if id(node) in above:
        raise RecipeError([f"{here}: {dotted(path)}: an alias that refers to itself"])
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = f"{document.file}:{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                document.problems.append(f"{at}: {dotted(path) or 'recipe'}: a key must be a word")
                continue
            key = key_node.value
            if key in mapping:
                document.problems.append(f"{at}: {dotted((*path, key))}: given twice; keep one")
            mapping[key] = _construct(loader, value_node, (*path, key), document, above)
            document.places[*path, key] = at
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), document, above) for index, item in enumerate(node.value)]
    return loader.construct_object(node)  # type: ignore[no-untyped-call]


def _override(document: _Document, setting: str) -> None:
    """Apply one `--set path=value`."""
    flag = f"--set {setting}"
    path_text, equals, value_text = setting.partition("=")
    if not equals or not path_text:
        raise RecipeError([f"{flag}: write it as path=value, for example train.epochs=1"])
    path: Path_ = tuple(int(part) if part.isdigit() else part for part in path_text.split("."))
    try:
        value = yaml.load(value_text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise RecipeError([f"{flag}: the value is not valid YAML"]) from None
    target = document.data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(part, int) and isinstance(target, list):
            if part >= len(target):
                raise RecipeError([f"{flag}: {dotted(path[:depth])} has {len(target)} entries, counted from 0"])
        elif isinstance(target, dict):
            if str(part) not in target and not last:
                target[str(part)] = {}
            part = str(part)
        else:
            raise RecipeError([f"{flag}: {dotted(path[:depth]) or 'the recipe'} is not a block, so it has no '{part}'"])
        if last:
            target[part] = value
        else:
            target = target[part]
    path = tuple(path)
    document.places = {at: place for at, place in document.places.items() if at[: len(path)] != path}
    document.places[path] = flag


def dotted(path: Iterable[str | int]) -> str:
    """`("data", "train", 0)` as people read it: `data.train.0`."""
    return ".".join(str(part) for part in path)


# --- reading a recipe ------------------------------------------------------------------------------------------------


def read(file: Path, plugins: Plugins, settings: Sequence[str] = ()) -> Recipe:
    """Read, override, validate and cross-check a recipe.

    Raises:
        RecipeError: with every problem found, each with its place.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    except OSError as error:
        raise RecipeError([f"{file}: {error.strerror or error}"]) from None
    document = _parse(text, str(file))
    if not isinstance(document.data, dict):
        raise RecipeError([f"{file}:1:1: a recipe is a block of keys such as `name:` and `model:`"])
    for setting in settings:
        _override(document, setting)
    model = recipe_model(plugins)
    try:
        # JSON mode is strict about types ("3" is no number, true is no integer) and lenient about containers.
        recipe = model.model_validate_json(
            json.dumps(document.data), strict=True, context={"directory": str(file.absolute().parent)}
        )
    except ValidationError as error:
        raise RecipeError(document.problems + list(_explain(error, model, document, plugins))) from None
    except ValueError as error:  # NaN and infinity have no JSON
        raise RecipeError([f"{file}: {error}"]) from None
    problems = [
        f"{document.place(path)}: {dotted(path)}: {what}" for path, what in _cross_check(recipe, plugins)
    ]
    if document.problems or problems:
        raise RecipeError(document.problems + problems)
    return recipe


def _explain(error: ValidationError, model: type[Recipe], document: _Document, plugins: Plugins) -> Iterator[str]:
    """pydantic's errors in our words: `file:line:column: path: what; did you mean …`."""
    for found in error.errors(include_url=False):
        path = _without_tags(found["loc"], document.data)
        what = found["msg"]
        kind, context = found["type"], found.get("ctx", {})
        if kind == "extra_forbidden":
            known = {name for of in _models_at(model, found["loc"][:-1]) for name in of.model_fields}
            what = f"unknown key{did_you_mean(str(path[-1]), known)}"
        elif kind == "union_tag_invalid" or (kind == "literal_error" and path[-1:] == ("use",)):
            if kind == "union_tag_invalid":
                path = (*path, "use")
                given, known = context["tag"], [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
            else:
                given, known = found["input"], [tag.strip("' ") for tag in str(context["expected"]).split(" or ")]
            what = f"nothing called '{given}' is installed{did_you_mean(str(given), known)}"
            for plugin in plugins.plugins:
                if plugin.error:
                    what += f" (plugin {plugin.name} is not in use: {plugin.error})"
        elif kind in ("union_tag_not_found", "missing") and (kind != "missing" or path[-1:] == ("use",)):
            path = path if kind == "union_tag_not_found" else path[:-1]
            tags = sorted({tag for of in _models_at(model, found["loc"]) for tag in _tags(of)})
            what = f"`use:` is missing; one of {', '.join(tags)}" if tags else "`use:` is missing"
        elif kind == "missing":
            what = "is missing"
        elif kind in ("model_type", "model_attributes_type", "dict_type"):
            what = f"must be a block of keys, not {_shown(found['input'])}"
        elif kind == "list_type":
            what = f"must be a list (lines that begin with `- `), not {_shown(found['input'])}"
        elif kind.endswith(("_type", "_parsing")) or kind == "string_pattern_mismatch":
            what = f"{what[0].lower()}{what[1:]}, not {_shown(found['input'])}"
        else:
            what = f"{what.removeprefix('Value error, ')}; got {_shown(found['input'])}"
        yield f"{document.place(path)}: {dotted(path)}: {what}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _without_tags(loc: Sequence[str | int], data: Any) -> Path_:
    """pydantic puts the name of the union's member into `loc`; drop what is not in the document."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not last or (isinstance(data, dict) and data.get("use") == part) or part in ("share", "source", "[key]"):
            continue
        path.append(part)
    return tuple(path)


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _models_in(argument)}


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    use = model.model_fields.get("use")
    return get_args(use.annotation) if use else ()


def _models_at(model: type[BaseModel], loc: Sequence[str | int]) -> set[type[BaseModel]]:
    """The models that a value at `loc` could be of."""
    models: set[type[BaseModel]] = {model}
    for part in loc:
        tagged = {of for of in models if part in _tags(of)}
        fields = {of for of in models if isinstance(part, str) and part in of.model_fields}
        if tagged:
            models = tagged
        elif fields:
            models = {inner for of in fields for inner in _models_in(of.model_fields[str(part)].annotation)}
    return models


def _cross_check(recipe: Recipe, plugins: Plugins) -> Iterator[tuple[Path_, str]]:
    """What no single block can tell: pairs that don't fit, and keys that nothing would read."""
    sources: list[tuple[Path_, Source]] = [(("data", "train", i), s) for i, s in enumerate(recipe.data.train)]
    if isinstance(recipe.data.validation, Source):
        sources.append((("data", "validation"), recipe.data.validation))
    held_out: list[tuple[Path_, Source]] = [(("data", "evals", name), s) for name, s in recipe.data.evals.items()]

    for path, source in sources + held_out:
        if (source.path is None) == (source.hub is None):
            yield path, "needs either `path:` or `hub:`"
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
    train_files = {source.path: path for path, source in sources if source.path}
    for path, source in held_out:
        if source.path in train_files:
            yield (*path, "path"), f"is also trained on or watched ({dotted(train_files[source.path])}): a leak"

    if recipe.evaluate and not recipe.data.evals:
        yield ("evaluate",), "there is nothing to evaluate on; name an eval set under data.evals"
    if recipe.data.evals and not recipe.evaluate:
        yield ("data", "evals"), "no evaluator reads these; add one under `evaluate:`"
    if "answers" in recipe.model_fields_set and not any(e.reads_answers for e in recipe.evaluate):
        yield ("answers",), "no evaluator of this recipe reads answers; take it out"
    replay = [path for path, source in sources if source.role == "replay"]
    mixers = [index for index, curator in enumerate(recipe.data.curate) if "replay" in curator.handles]
    if replay and not mixers:
        yield (*replay[0], "role"), "no curator says how much replay to mix in; add `- {use: mix, replay: 5%}` to curate"
    if mixers and not replay:
        yield ("data", "curate", mixers[0]), "mixes replay rows and no source has `role: replay`"
    if all(source.role == "replay" for _, source in sources[: len(recipe.data.train)]):
        yield ("data", "train"), "has replay rows only; a run needs domain rows"

    for path, component in _components(recipe):
        offer = plugins.offers(_kind_of(component))[component.used_as]
        for missing in missing_packages(offer):
            yield path, missing
        for problem in component.problems():
            yield path, problem


def _kind_of(component: Component) -> str:
    return next(kind for kind, base in KINDS.items() if isinstance(component, base))


def _components(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Component]]:
    """Every component of a recipe with its path."""
    if isinstance(value, Component):
        yield path, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _components(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _components(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _components(item, (*path, index))
