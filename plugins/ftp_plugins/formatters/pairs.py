"""Formatters for one question and one answer."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import field_validator, model_validator

import ftp
from ftp_plugins.formatters.columns import filled, optional, required


def pair_of(example: ftp.Example) -> tuple[str, str] | None:
    """Return question and answer of an example that has one of each, besides a system turn; else None."""
    turns = [message for message in example.messages if message.role != "system"]
    if [turn.role for turn in turns] != ["user", "assistant"] or turns[1].tool_calls:
        return None
    return turns[0].content, turns[1].content


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
    template: str | None = None
    """The user's turn written from any columns, in place of instruction and context: `"{question}\\n\\n{notes}"`.
    Every column named must be there; null and empty ones leave nothing. A brace itself is written twice."""
    system: str = ""
    """A system turn added before every row. Empty: none, and the template's own default applies."""

    @field_validator("template")
    @classmethod
    def _parses(cls, template: str | None) -> str | None:
        try:
            parts = list(string.Formatter().parse(template or "{}"))
        except ValueError as error:
            raise ValueError(f"not a template: {error}; write a brace itself twice, as {{{{ or }}}}") from None
        if template is not None and not any(column for _, column, _, _ in parts):
            raise ValueError("names no column; write one in braces, such as {question}")
        if template is not None and any(column == "" or form or how for _, column, form, how in parts):
            raise ValueError("braces hold the name of a column and nothing else, such as {question}")
        return template

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        twice = self.model_fields_set & {"instruction", "context"}
        if self.template is not None and twice:
            raise ValueError(f"'template' takes the place of {' and '.join(sorted(twice))}; take one of the two out")
        return self

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        if self.template is not None:
            user = filled(row, self._template_parts)
        else:
            user = "\n\n".join(filter(None, (required(row, self.instruction), optional(row, self.context, "context"))))
        return conversation(user, required(row, self.response), self.system)

    def row(self, example: ftp.Example) -> Mapping[str, Any] | None:
        pair = pair_of(example)
        if pair is None or self.template is not None:
            return None
        context = {} if self.context is None else {self.context: ""}
        return {self.instruction: pair[0], **context, self.response: pair[1]}

    @cached_property
    def _template_parts(self) -> list[tuple[str, str | None]]:
        """The template as texts, each with the column that follows it."""
        return [(text, column) for text, column, _, _ in string.Formatter().parse(self.template or "")]


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

    def row(self, example: ftp.Example) -> Mapping[str, Any] | None:
        pair = pair_of(example)
        if pair is None:
            return None
        return {self.instruction: pair[0], **({} if self.input is None else {self.input: ""}), self.output: pair[1]}


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

    def row(self, example: ftp.Example) -> Mapping[str, Any] | None:
        pair = pair_of(example)
        return None if pair is None else {self.prompt: pair[0], self.completion: pair[1]}
