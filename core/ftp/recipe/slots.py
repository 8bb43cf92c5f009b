"""The pydantic model of a recipe for the installed components: every kind is their union, discriminated by `use`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

from ftp.components import KINDS, Component
from ftp.errors import PluginError
from ftp.options import PLAIN_NAME, Options, Share
from ftp.plugins import Offer, Plugins
from ftp.recipe.model import Data, Recipe, Source


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
"""Classes made at run time have no source to search for docstrings; searching takes longer than everything else."""


def _like(base: type[BaseModel], name: str, annotation: Any) -> Any:
    """Copy a field of `base` with another type; its default, limits and help stay the same."""
    return (annotation, base.model_fields[name])


def _block(offers: Mapping[str, Offer]) -> Any:
    """Build a union of the offered components, discriminated by `use`."""
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
    """Return an instance of the plugin's own class.

    Instances of classes made at run time neither pickle nor compare equal.
    """

    def rebuild(block: Options) -> Options:
        values = {name: getattr(block, name) for name in cls.model_fields}
        rebuilt = cls.model_construct(_fields_set=block.model_fields_set - {"use"}, **values)
        if isinstance(rebuilt, Component):
            rebuilt._used_as = used_as
        return rebuilt

    return rebuild


def json_schema(plugins: Plugins) -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of recipes for the installed components."""
    schema = recipe_model(plugins).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "FTP recipe"}
