"""Formatters for conversations of several turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ftp
from ftp.errors import did_you_mean
from ftp_plugins.formatters.columns import listed

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


def turns(found: list[Any], column: str, role_key: str, text_key: str, roles: Mapping[str, Any]) -> ftp.Example:
    """The turns of a row, checked one by one."""
    messages: list[ftp.Message] = []
    for number, turn in enumerate(found, 1):
        where = f"'{column}' turn {number}"
        if not isinstance(turn, dict):
            raise ftp.RowError(where, "an object is needed")
        for key in (role_key, text_key):
            if key not in turn:
                raise ftp.RowError(where, f"'{key}' is missing{did_you_mean(key, map(str, turn))}")
        role, text = turn[role_key], turn[text_key]
        if not isinstance(role, str) or role not in roles:
            raise ftp.RowError(where, f"unknown role {role!r}; known: {', '.join(roles)}")
        if not isinstance(text, str):
            raise ftp.RowError(where, f"'{text_key}' must be text")
        if roles[role] == "system" and messages:
            raise ftp.RowError(where, "a system turn can only come first")
        if roles[role] != "system" and not text.strip():
            raise ftp.RowError(where, f"'{text_key}' is empty")
        messages.append(ftp.Message(roles[role], text))
    begin = messages[messages[0].role == "system" :]
    if not begin or begin[0].role != "user":
        raise ftp.RowError(f"'{column}'", "begins without a user's turn")
    return ftp.Example(tuple(messages))


class Messages(ftp.Formatter):
    """OpenAI-style chat: a list of {role, content}. Loss is taken on every assistant turn."""

    messages: str = "messages"
    """Column of the list."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        roles = {role: role for role in ("system", "user", "assistant")}
        return turns(listed(row, self.messages), self.messages, "role", "content", roles)


class ShareGPT(ftp.Formatter):
    """ShareGPT chat: a list of {from, value} with human and gpt. Loss is taken on every gpt turn."""

    conversations: str = "conversations"
    """Column of the list."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        return turns(listed(row, self.conversations), self.conversations, "from", "value", SHAREGPT_ROLES)
