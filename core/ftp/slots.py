"""Slots: a field annotated with a kind becomes the union of what is installed of that kind, told apart by `use`.

`judge: ftp.Loader`, `rewards: list[ftp.Evaluator]` or `dict[str, ftp.Formatter]` is a slot wherever it stands: in the
recipe, in the options of a component, in a block of options inside those. A recipe is made of nothing else.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, to_jsonable_python

from ftp.components import KINDS, Component, Engine, Evaluator, Formatter, Weighted
from ftp.plugins import Offer, Plugins

Block = TypeVar("Block", bound=BaseModel)
Kind = TypeVar("Kind", bound=Component)


class Slot:
    """Stands in an annotation for a block that depends on what is installed.

    It is asked for that block only when pydantic builds a validator: a component can have a slot for its own kind, and
    a block can hold itself, without an end to the building.
    """

    block: ClassVar[Callable[[], Any]]
    """Return the annotation in its place."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(cls.block())


class Slots:
    """Puts into annotations what is installed."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._slots: dict[type[BaseModel], type[Slot]] = {}
        self._several: dict[tuple[type[Component], ...], type[Slot]] = {}
        self._weighted: dict[type[Component], type[Slot]] = {}
        self._members: dict[tuple[type[BaseModel], str, bool], Any] = {}

    def model(self, cls: type[Block], **more: Any) -> type[Block]:
        """Return a block of options whose slots are filled, under the name of `cls`.

        Args:
            more: further fields, as `pydantic.create_model` takes them.
        """
        filled = {
            name: (self._filled(field.annotation), field)
            for name, field in cls.model_fields.items()
            if has_slots(field.annotation)
        }
        return create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, __cls_kwargs__=_MADE, **{**filled, **more})

    def uses(self, annotation: Any) -> list[str]:
        """Return for each kind in an annotation what can be written after its `use:`, in words."""
        if isinstance(annotation, type) and issubclass(annotation, Component):
            return [f"a block: {', '.join(offer.name for offer in self._offered(annotation)) or 'none'}"]
        return [words for part in get_args(annotation) for words in self.uses(part)]

    def named(self, value: Any) -> Any:
        """Return a default with new components in it, named as a recipe would name them."""
        if isinstance(value, BaseModel) and has_slots(type(value)):
            values = {name: self.named(getattr(value, name)) for name in type(value).model_fields}
            made: Any = type(value).model_construct(_fields_set=value.model_fields_set, **values)
            return self._introduced(made, self._name_of(value)) if isinstance(value, Component) else made
        if isinstance(value, Mapping):
            return {key: self.named(item) for key, item in value.items()}
        return type(value)(map(self.named, value)) if type(value) in (list, tuple) else value

    def without_options(self, kind: type[Kind], wanted: Callable[[type[Kind]], bool] = lambda cls: True) -> list[Kind]:
        """Return a component of each offered class of a kind that needs no options, by name.

        Args:
            wanted: whether a class is to be among them.
        """
        made = []
        for offer in self._offered(kind):
            cls = offer.component
            if issubclass(cls, kind) and wanted(cls):
                with contextlib.suppress(ValidationError):  # it needs options, or one of several
                    made.append(self.named(cls().named(offer.name)))
        return made

    def _name_of(self, component: Component) -> str:
        names = [offer.name for offer in self._offered(type(component)) if offer.component is type(component)]
        return component.used_as if component.used_as in names or not names else names[0]

    def _offered(self, cls: type[Component]) -> list[Offer]:
        """Return every offered component that is one of `cls`, a kind or a narrower class."""
        kinds = [kind for kind, base in KINDS.items() if issubclass(cls, base)] or KINDS
        offers = (offer for kind in kinds for offer in self._plugins.offers(kind).values())
        return [offer for offer in offers if issubclass(offer.component, cls)]

    def _filled(self, annotation: Any) -> Any:
        """Return the annotation with a Slot for every block in it that depends on what is installed."""
        if not has_slots(annotation):
            return annotation
        if get_origin(annotation) is Annotated and any(isinstance(mark, Weighted) for mark in annotation.__metadata__):
            kind = annotation.__origin__
            if kind not in self._weighted:
                block = staticmethod(partial(self._union, (kind,), weighted=True))
                self._weighted[kind] = type(kind.__name__, (Slot,), {"block": block, "__doc__": kind.__doc__})
            return self._weighted[kind]
        kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
        if len(several := tuple(kind for kind in kinds if _is_kind(kind))) > 1:  # one union, told apart by `use`
            if several not in self._several:
                self._several[several] = type("Slot", (Slot,), {"block": staticmethod(partial(self._union, several))})
            rest = [self._filled(kind) for kind in kinds if not _is_kind(kind)]
            return Union[(self._several[several], *rest)]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in self._slots:
                name, block = annotation.__name__, staticmethod(partial(self._block, annotation))
                self._slots[annotation] = type(name, (Slot,), {"block": block, "__doc__": annotation.__doc__})
            return self._slots[annotation]
        arguments = tuple(map(self._filled, get_args(annotation)))
        origin: Any = get_origin(annotation)
        return Union[arguments] if origin is types.UnionType else origin[arguments]  # noqa: UP007

    def _block(self, cls: type[BaseModel]) -> Any:
        """Return what replaces a class in an annotation: a union for a kind, a block with filled slots for others."""
        return self._union((cls,)) if issubclass(cls, Component) else self._member(cls)

    def _union(self, classes: Sequence[type[Component]], *, weighted: bool = False) -> Any:
        """Return the union of the offered components that are one of `classes`, told apart by `use`.

        Args:
            weighted: whether each block takes a `weight:` too.
        """
        offers = [offer for cls in classes for offer in self._offered(cls)]
        if not offers:
            return Annotated[Any, AfterValidator(_nothing_installed), WithJsonSchema({"type": "object"})]
        members = [self._member(offer.component, offer.name, weighted) for offer in offers]
        if len(members) == 1:  # a union of one has no discriminator
            return members[0]
        # Not Field(discriminator="use"): create_model forgets that one when the field comes with a FieldInfo.
        return Annotated[Union[tuple(members)], Discriminator("use")]  # noqa: UP007

    def _member(self, cls: type[BaseModel], use: str = "", weighted: bool = False) -> Any:
        """Return a block that is read with filled slots and becomes an instance of the class that was written.

        Instances of classes made at run time neither pickle nor compare equal.
        """
        if (cls, use, weighted) not in self._members:
            first_line = (cls.__doc__ or "").strip().split("\n", 1)[0]
            optional: dict[str, Any] = {"default": use} if issubclass(cls, Engine) and cls.by_default else {}
            tag: dict[str, Any] = {"use": (Literal[use], Field(description=first_line, **optional))} if use else {}
            if weighted and "weight" not in cls.model_fields:
                tag["weight"] = (float, Field(default=1.0, allow_inf_nan=False, description="Weight in the sum."))
            made = self.model(cls, **tag)
            rebuild = partial(self.rebuilt, cls, use=use)
            self._members[cls, use, weighted] = Annotated[made, AfterValidator(rebuild)]
        return self._members[cls, use, weighted]

    def rebuilt(self, cls: type[Block], block: BaseModel, use: str = "") -> Block:
        """Return a block that `model(cls)` has read as an instance of `cls`, a component under the name `use`."""
        given = block.model_fields_set
        values = {
            name: getattr(block, name) if name in given else self.named(getattr(block, name))
            for name in cls.model_fields
        }
        added = {"use", "weight"} - set(cls.model_fields)
        made = cls.model_construct(_fields_set=given - added, **values, **(block.model_extra or {}))
        if isinstance(made, Evaluator) and "weight" in type(block).model_fields and "weight" in added:
            made = made.weighing(block.weight)  # type: ignore[attr-defined]
        return self._introduced(made, use) if isinstance(made, Component) else made

    def _introduced(self, component: Any, name: str) -> Any:
        """Name a component, and give a formatter that chooses by the data the formatters that it can choose from."""
        component = component.named(name)
        if isinstance(component, Formatter) and component.chooses_by_data():
            others = self.without_options(
                Formatter,  # type: ignore[type-abstract]
                lambda other: not other.chooses_by_data(),
            )
            return component.among(others)
        return component


_MADE: dict[str, Any] = {"use_attribute_docstrings": False, "defer_build": True}
"""Classes made at run time have no source to look for docstrings in, and most are only ever a part of another."""


def _is_kind(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Component)


def has_slots(annotation: Any, above: frozenset[type] = frozenset()) -> bool:
    """Whether a kind stands anywhere in an annotation, or in the blocks of options that it names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in above:
            return False
        fields = annotation.model_fields.values()
        inner = (has_slots(field.annotation, above | {annotation}) for field in fields)
        return issubclass(annotation, Component) or any(inner)
    return get_origin(annotation) is not type and any(has_slots(part, above) for part in get_args(annotation))


def _nothing_installed(value: object) -> None:
    raise PydanticCustomError("nothing_installed", "nothing of this kind is installed")


def dump(value: Any) -> Any:
    """Return a value of a recipe as YAML has it: components with their `use:`, every default written out."""
    if isinstance(value, Component):
        block = {"use": value.used_as, **{name: dump(getattr(value, name)) for name in type(value).model_fields}}
        weight = value.weight_given if isinstance(value, Evaluator) else None
        return block if weight is None else {**block, "weight": weight}
    if isinstance(value, BaseModel):
        return {name: dump(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(dump, value), key=repr)  # in an order that is the same in every process
    if isinstance(value, list | tuple):
        return [dump(item) for item in value]
    return to_jsonable_python(value)


def block_schema(cls: type[BaseModel], plugins: Plugins) -> dict[str, Any]:
    """Return the JSON schema of one block, such as the options of a component, for what is installed."""
    slots = Slots(plugins)

    class Schema(GenerateJsonSchema):
        def encode_default(self, dft: Any) -> Any:
            return dump(slots.named(dft))

    return slots.model(cls).model_json_schema(schema_generator=Schema)
