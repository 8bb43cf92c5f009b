"""Formatters for one question and one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ftp
from ftp_plugins.formatters.columns import optional, required


def conversation(user: str, assistant: str, system: str = "") -> ftp.Example:
    first = (ftp.Message("system", system),) if system else ()
    return ftp.Example((*first, ftp.Message("user", user), ftp.Message("assistant", assistant)))


class Instruct(ftp.Formatter):
    """Instruction, context, response: the task, its material (may be empty), and the answer."""

    instruction: str = "instruction"
    """Column of the task."""
    context: str | None = "context"
    """Column of the material; it follows the task after an empty line. A row may lack it unless it is renamed."""
    response: str = "response"
    """Column of the answer."""
    system: str = ""
    """A system turn added before every row. Empty: none, and the template's own default applies."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        user = "\n\n".join(filter(None, (required(row, self.instruction), optional(row, self.context, "context"))))
        return conversation(user, required(row, self.response), self.system)


class Alpaca(ftp.Formatter):
    """Alpaca rows: instruction, input (may be empty), output."""

    instruction: str = "instruction"
    """Column of the task."""
    input: str | None = "input"
    """Column of the material; it follows the task after an empty line. A row may lack it unless it is renamed."""
    output: str = "output"
    """Column of the answer."""
    system: str = ""
    """A system turn added before every row. Empty: none, and the template's own default applies."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        user = "\n\n".join(filter(None, (required(row, self.instruction), optional(row, self.input, "input"))))
        return conversation(user, required(row, self.output), self.system)


class PromptCompletion(ftp.Formatter):
    """Prompt and completion."""

    prompt: str = "prompt"
    """Column of the user's turn."""
    completion: str = "completion"
    """Column of the assistant's turn."""
    system: str = ""
    """A system turn added before every row. Empty: none, and the template's own default applies."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        return conversation(required(row, self.prompt), required(row, self.completion), self.system)
