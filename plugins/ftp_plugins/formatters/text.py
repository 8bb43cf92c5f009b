"""The formatter for running text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import ftp
from ftp.types import Kind
from ftp_plugins.formatters.columns import required


class Text(ftp.Formatter):
    """Running text, without turns: loss on every token."""

    makes: ClassVar[Kind] = "text"

    text: str = "text"
    """Column of the text."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        return ftp.Example(text=required(row, self.text))
