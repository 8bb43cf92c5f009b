"""Formatters for judged answers: one preferred over another, or one with a thumb up or down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import ftp
from ftp.errors import did_you_mean
from ftp.types import Kind
from ftp_plugins.formatters.chat import begins_with_user, turns
from ftp_plugins.formatters.columns import listed, required
from ftp_plugins.formatters.tools import tools_of

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class Preference(ftp.Formatter):
    """Two answers to one prompt, one chosen over the other, as for DPO (Rafailov et al. 2023, arXiv:2305.18290).

    The prompt is text or a list of {role, content}; chosen and rejected are texts, or lists of one assistant's turn.
    They may also be whole conversations which differ in the last turn: lists that begin with the user (TRL's implicit
    prompt), or texts of "\\n\\nHuman: …\\n\\nAssistant: …" (Anthropic HH). The prompt column may then be missing; where
    it is there, the shared turns have to end with it.
    """

    makes: ClassVar[Kind] = "preference"

    prompt: str | None = "prompt"
    """Column of the prompt. A row of whole conversations may lack it unless it is renamed; null: not read."""
    chosen: str = "chosen"
    """Column of the preferred answer."""
    rejected: str = "rejected"
    """Column of the rejected answer."""
    tools: str | None = "tools"
    """Column of the tools that the assistant may call: a list of JSON schemas, or its JSON text. A row may lack it
    unless it is renamed; null: not read."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        prompt = self._prompt(row)
        *shared, chosen = answer_turns(row, self.chosen)
        *other, rejected = answer_turns(row, self.rejected)
        both = f"'{self.chosen}' and '{self.rejected}'"
        if shared != other:
            raise ftp.RowError(both, "differ before their last turn; they must be two answers to the same turns")
        if shared:
            begins_with_user((*shared, chosen), self.chosen)
        elif not prompt:
            raise ftp.RowError(
                f"'{self.prompt or 'prompt'}'", f"there is none, and {both} are not whole conversations that contain it"
            )
        if prompt and shared and shared[-len(prompt) :] != prompt:
            raise ftp.RowError(f"'{self.prompt}'", f"is not how the turns that {both} share end")
        if (chosen.content.strip(), chosen.tool_calls) == (rejected.content.strip(), rejected.tool_calls):
            raise ftp.RowError(both, "are the same")
        return ftp.Example((*(shared or prompt), chosen), rejected=(rejected,), tools=tools_of(row, self.tools))

    def _prompt(self, row: Mapping[str, Any]) -> list[ftp.Message]:
        if self.prompt is None or (self.prompt == "prompt" and row.get("prompt") is None):
            return []
        return prompt_turns(row, self.prompt)


class Feedback(ftp.Formatter):
    """An answer and whether it was good, as for KTO (Ethayarajh et al. 2024, arXiv:2402.01306).

    The prompt is text or a list of {role, content}; the completion is text or a list of one assistant's turn. The
    label is true or false, or the number 1 or 0; text such as "true" is refused, so CSV files can't hold it.
    """

    makes: ClassVar[Kind] = "feedback"

    prompt: str = "prompt"
    """Column of the prompt."""
    completion: str = "completion"
    """Column of the answer."""
    label: str = "label"
    """Column of the verdict: true or 1 for a good answer, false or 0 for a bad one."""
    tools: str | None = "tools"
    """Column of the tools that the assistant may call: a list of JSON schemas, or its JSON text. A row may lack it
    unless it is renamed; null: not read."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        prompt = prompt_turns(row, self.prompt)
        *shared, answer = answer_turns(row, self.completion)
        if shared:
            raise ftp.RowError(f"'{self.completion}'", "one assistant's turn is needed; the others are the prompt's")
        if self.label not in row:
            raise ftp.RowError(f"'{self.label}'", f"missing column{did_you_mean(self.label, map(str, row))}")
        label = row[self.label]
        if not isinstance(label, bool | int | float) or label not in (0, 1):
            raise ftp.RowError(f"'{self.label}'", "true or false is needed, or the number 1 or 0")
        return ftp.Example((*prompt, answer), label=bool(label), tools=tools_of(row, self.tools))


def prompt_turns(row: Mapping[str, Any], column: str) -> list[ftp.Message]:
    """Return the turns before the answer, from a text or a list."""
    if not isinstance(row.get(column), list):
        return [ftp.Message("user", required(row, column))]
    messages = turns(listed(row, column), column)
    begins_with_user(messages, column)
    if messages[-1].role == "assistant":
        raise ftp.RowError(f"'{column}'", "ends with the assistant's turn; the answer belongs in a column of its own")
    return list(messages)


def answer_turns(row: Mapping[str, Any], column: str) -> list[ftp.Message]:
    """Return the turns of an answer: one assistant's turn, or a whole conversation that ends with it."""
    if isinstance(row.get(column), list):
        messages = list(turns(listed(row, column), column))
    else:
        text = required(row, column)
        marked = _HH_TURN.split("\n\n" + text.lstrip("\n"))
        if marked[0] or "Assistant" not in marked[1::2]:
            return [ftp.Message("assistant", text)]
        found = [
            {"role": _HH_ROLES[speaker], "content": said.strip()}
            for speaker, said in zip(marked[1::2], marked[2::2], strict=True)
        ]
        messages = list(turns(found, column))
    if messages[-1].role != "assistant":
        raise ftp.RowError(
            f"'{column}'", f"ends with the {messages[-1].role}'s turn; an answer by the assistant is needed"
        )
    if not messages[-1].train:
        raise ftp.RowError(f"'{column}'", "its last turn is left out of training, and that is the answer to learn from")
    return messages
