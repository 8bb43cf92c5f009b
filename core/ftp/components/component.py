"""The base of every component: a component is its own block of options."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from pydantic import PrivateAttr

from ftp.options import Options


class Component(Options, ABC):
    """A part of a run that a recipe names with `use:`. Its fields are its options; its docstring is its help."""

    requires: ClassVar[tuple[str, ...]] = ()
    """The packages that it needs beyond the base install, by import name."""

    _used_as: str = PrivateAttr(default="")

    @property
    def used_as(self) -> str:
        """Name of the component in the recipe."""
        return self._used_as or type(self).__name__

    def named(self, name: str) -> Self:
        """Return the same component under the name that the recipe uses for it."""
        component = self.model_copy()
        component._used_as = name
        return component

    def anew(self) -> Self:
        """Return a component with the same options and name and no accumulated state."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        fresh = type(self).model_construct(_fields_set=self.model_fields_set, **values)
        return cast(Self, fresh.named(self._used_as))

    def problems(self) -> list[str]:
        """List what is wrong with these options on this machine, as far as can be told without heavy libraries."""
        return []

    def cross_problems(self, recipe: Any) -> list[str]:
        """Return what is wrong with these options in this recipe, for what depends on its other blocks.

        Args:
            recipe: an `ftp.recipe.Recipe`, whole and validated.

        Returns:
            A sentence for each problem, as `problems` does; one that begins with `OPTION: ` has that option's place.
        """
        return []

    def warnings(self, recipe: Any) -> list[str]:
        """Return what is allowed in this recipe and worth a second look, as `cross_problems` does what is wrong."""
        return []

    def needs_consent(self) -> Sequence[str]:
        """List what these options have run, loaded or sent that the recipe of a stranger's run must not decide alone.

        Each entry is what happens, as in "It would …": `run the code that comes with the model org/name`, `send
        prompts and answers to https://…, with the key in $VARIABLE`. The user of the machine is asked about each,
        unless the run was made there. Name every address and every variable of the environment that an option sets.
        """
        return ()

    def needs_consent_in_recipe(self) -> Sequence[str]:
        """List what of `needs_consent` the user is asked about even where the recipe is the user's own: the unusual."""
        return ()


def defines(cls: type, method: str) -> Any:
    """Implement `__subclasshook__` for a class with one method, as collections.abc does."""
    return any(method in vars(base) and vars(base)[method] is not None for base in cls.__mro__) or NotImplemented
