"""Formatters and curators: rows to examples, and which of them are used."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import PrivateAttr

from ftp.components.component import Component
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.types import Example, Kind


class Formatter(Component):
    """Turns a row of a source into an example."""

    makes: ClassVar[Kind] = "conversation"
    """The kind of example that it makes."""

    _others: tuple[Formatter, ...] = PrivateAttr(default=())

    @abstractmethod
    def format(self, row: Mapping[str, Any]) -> Example:
        """Return the row as an `ftp.Example`. Raise `ftp.RowError(column, what)` for a row that can't be used."""

    def row(self, example: Example) -> Mapping[str, Any] | None:
        """Return a row that `format` makes this example from, or None where it makes it from none.

        For commands that write rows, such as `/save` of `ftp chat`, which compare what `format` makes of it.
        """
        return None

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Formatter, str]:
        """Look at the first rows of a source; return the formatter to use instead of this one, and the reason in words.

        For formatters that choose by the data, among `others` for example. Raise `ftp.DataError` when the rows don't
        settle the choice.
        """
        return self, ""

    @classmethod
    def chooses_by_data(cls) -> bool:
        """Return whether it is replaced by the formatter that its `settle` returns."""
        return cls.settle is not Formatter.settle

    @property
    def others(self) -> tuple[Formatter, ...]:
        """The installed formatters that need no options and choose nothing by the data, in the order of their names.

        Known to a formatter that chooses by the data, when a recipe has made it.
        """
        return self._others

    def among(self, others: Sequence[Formatter]) -> Self:
        """Return the same formatter with these `others`."""
        formatter = self.model_copy()
        formatter._others = tuple(others)
        return formatter


class Curator(Component):
    """Chooses, drops or reorders rows before training."""

    handles: ClassVar[tuple[str, ...]] = ()
    """The roles of rows, besides `domain`, that it decides on: a recipe with such rows needs a curator for them."""
    splits: ClassVar[bool] = False
    """Whether it makes the validation split; the recipe then has no `validation:`."""
    guards_evals: ClassVar[bool] = False
    """Whether a recipe with eval sets that doesn't name it uses it anyway, as its first curator."""
    leaks: ClassVar[tuple[str, ...]] = ("leak",)
    """Which of its findings (the `what` of `ledger.find`) mean that a training row contains the eval row `other`."""

    @abstractmethod
    def curate(self, corpus: Corpus, ledger: Ledger) -> Corpus:
        """Return the corpus with rows removed, moved to validation, masked or reordered.

        Record every such row in the ledger: `ledger.drop`, `ledger.move`, `ledger.mask`.
        """
