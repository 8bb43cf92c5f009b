"""Formatters for conversations of several turns, including tool calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import ftp
from ftp.errors import did_you_mean
from ftp.types import Role
from ftp_plugins.formatters.columns import listed
from ftp_plugins.formatters.tools import calls_in_text, calls_of, text_of, tools_of, written_calls

OPENAI_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def turns(
    found: list[Any],
    column: str,
    role_key: str = "role",
    text_key: str = "content",
    roles: Mapping[str, Role] = OPENAI_ROLES,
) -> tuple[ftp.Message, ...]:
    """Return the turns of a list, checked one by one.

    A key of a turn that is null counts as missing: Parquet writes null for a key that only other turns have.
    """
    messages: list[ftp.Message] = []
    open_calls: list[str] = []  # ids of the calls that no tool has answered; empty for a call without an id
    for number, turn in enumerate(found, 1):
        where = f"'{column}' turn {number}"
        if not isinstance(turn, dict):
            raise ftp.RowError(where, "an object is needed")
        if role_key not in turn:
            raise ftp.RowError(where, f"'{role_key}' is missing{did_you_mean(role_key, map(str, turn))}")
        given = turn[role_key]
        if not isinstance(given, str) or given not in roles:
            raise ftp.RowError(where, f"unknown role {given!r}; known: {', '.join(roles)}")
        role = roles[given]
        calls = _calls(turn, given, role, text_key, where)
        content = "" if given == "function_call" else _content(turn, role, text_key, bool(calls), where)
        name, answers = (text_of(turn, key, where) if role == "tool" else "" for key in ("name", "tool_call_id"))
        if role == "system" and messages:
            raise ftp.RowError(where, "a system turn can only come first")
        if role == "tool":
            if not open_calls:
                raise ftp.RowError(where, "a tool's turn must follow the assistant's call that it answers")
            if answers and answers not in open_calls:
                hint = did_you_mean(answers, filter(None, open_calls))
                raise ftp.RowError(where, f"'tool_call_id' {answers!r} is not a call that waits for an answer{hint}")
            open_calls.remove(answers or open_calls[0])
        else:
            open_calls = [call.get("id", "") for call in calls]
        train = _train(turn, role, where)
        messages.append(ftp.Message(role, content, train, written_calls(calls, where), name, answers))
    return tuple(messages)


def _calls(turn: Mapping[str, Any], given: str, role: Role, text_key: str, where: str) -> list[dict[str, Any]]:
    if given == "function_call":
        if text_key not in turn:
            raise ftp.RowError(where, f"'{text_key}' is missing{did_you_mean(text_key, map(str, turn))}")
        calls = calls_in_text(turn[text_key], f"{where} '{text_key}'")
        if not calls:
            raise ftp.RowError(where, f"'{text_key}' is empty")
        return calls
    if turn.get("function_call") is not None:
        raise ftp.RowError(where, "'function_call' is OpenAI's old form and not supported; write it as 'tool_calls'")
    value = turn.get("tool_calls")
    if value is None or value == []:
        return []
    if role != "assistant":
        raise ftp.RowError(where, "'tool_calls' belongs to the assistant's turn")
    return calls_of(value, where)


def _content(turn: Mapping[str, Any], role: Role, text_key: str, has_calls: bool, where: str) -> str:
    content = turn.get(text_key)
    if content is None and has_calls:
        return ""
    if text_key not in turn:
        raise ftp.RowError(where, f"'{text_key}' is missing{did_you_mean(text_key, map(str, turn))}")
    if not isinstance(content, str):
        raise ftp.RowError(where, f"'{text_key}' must be text")
    # A tool may have nothing to say, and a system turn may be there to keep the template's own out.
    if role in ("user", "assistant") and not has_calls and not content.strip():
        raise ftp.RowError(where, f"'{text_key}' is empty")
    return content


def _train(turn: Mapping[str, Any], role: Role, where: str) -> bool:
    """Read `train: false`, or `weight: 0` as OpenAI spells it, on a turn that is context only."""
    given = [(key, turn[key]) for key in ("train", "weight") if turn.get(key) is not None]
    for key, value in given:
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise ftp.RowError(where, f"'{key}' must be true or false, or 1 or 0")
        if value and role != "assistant":
            raise ftp.RowError(where, f"'{key}' asks to train the {role}'s turn; only the assistant's are trained")
    if len(given) == 2 and given[0][1] != given[1][1]:
        raise ftp.RowError(where, "'train' and 'weight' say different things")
    return role != "assistant" or all(value for _, value in given)


def begins_with_user(messages: tuple[ftp.Message, ...], column: str) -> None:
    """Raise RowError if the first turn, apart from a system turn, is not the user's."""
    begin = messages[messages[0].role == "system" :]
    if not begin or begin[0].role != "user":
        raise ftp.RowError(f"'{column}'", "begins without a user's turn")


def conversation(messages: tuple[ftp.Message, ...], column: str, tools: str) -> ftp.Example:
    begins_with_user(messages, column)
    trained = [message.train for message in messages if message.role == "assistant"]
    if trained and not any(trained):
        raise ftp.RowError(f"'{column}'", "every assistant's turn is left out of training; there is nothing to learn")
    return ftp.Example(messages, tools=tools)


def is_plain(example: ftp.Example) -> bool:
    """Return whether a conversation has no tools and no calls, and every answer in it is trained."""
    return not example.tools and all(turn == ftp.Message(turn.role, turn.content) for turn in example.messages)


def without_tools(column: str | None) -> dict[str, None]:
    """Return the part of a row without tools that says so: a column that is renamed has to be there."""
    return {column: None} if column is not None and column != "tools" else {}


class Messages(ftp.Formatter):
    """OpenAI-style chat: a list of {role, content} with the roles system (or developer), user, assistant and tool.

    An assistant's turn may have `tool_calls` and no content; a tool's turn follows it, with `tool_call_id` and `name`
    where they are known. Loss is taken on every assistant turn but those with `train: false` (or `weight: 0`).
    """

    also_known_as: ClassVar[Mapping[str, str]] = {
        "field_messages": "messages",
        **dict.fromkeys(("message_field_role", "message_property_mappings", "role_tag", "role_field"), "role"),
        **dict.fromkeys(("message_field_content", "content_tag", "content_field"), "content"),
        **dict.fromkeys(("role_mapping", "user_tag", "assistant_tag"), "roles"),
    }

    messages: str = "messages"
    """Column of the list."""
    role: str = "role"
    """Key of a turn's role, such as `from`."""
    content: str = "content"
    """Key of a turn's text, such as `value`."""
    roles: dict[str, Role] = {}
    """Other names of roles: `{human: user, gpt: assistant}`. The usual ones are known too."""
    tools: str | None = "tools"
    """Column of the tools that the assistant may call: a list of JSON schemas, or its JSON text. A row may lack it
    unless it is renamed; null: not read."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        names = {**OPENAI_ROLES, **self.roles}
        found = turns(listed(row, self.messages), self.messages, self.role, self.content, names)
        return conversation(found, self.messages, tools_of(row, self.tools))

    def problems(self) -> list[str]:
        same = self.role == self.content
        return [f"content: the role and the text of a turn can't both be '{self.content}'"] if same else []

    def row(self, example: ftp.Example) -> Mapping[str, Any] | None:
        if not is_plain(example):
            return None
        names = {role: name for name, role in self.roles.items()}
        found = [{self.role: names.get(turn.role, turn.role), self.content: turn.content} for turn in example.messages]
        return {self.messages: found, **without_tools(self.tools)}


class ShareGPT(ftp.Formatter):
    """ShareGPT chat: a list of {from, value} with human and gpt.

    A call is a function_call turn, whose value is the JSON text of {name, arguments} or of a list of them; an
    observation (or tool) turn answers it. Loss is taken on every gpt and function_call turn but those with
    `train: false` (or `weight: 0`).
    """

    conversations: str = "conversations"
    """Column of the list."""
    tools: str | None = "tools"
    """Column of the tools that the assistant may call: a list of JSON schemas, or its JSON text. A row may lack it
    unless it is renamed; null: not read."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        found = turns(listed(row, self.conversations), self.conversations, "from", "value", SHAREGPT_ROLES)
        return conversation(found, self.conversations, tools_of(row, self.tools))

    def row(self, example: ftp.Example) -> Mapping[str, Any] | None:
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        if not is_plain(example) or any(turn.role not in names for turn in example.messages):
            return None
        found = [{"from": names[turn.role], "value": turn.content} for turn in example.messages]
        return {self.conversations: found, **without_tools(self.tools)}
