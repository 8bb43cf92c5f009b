"""Rows of Acme's ticket export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import ftp

ROLES: dict[str, Literal["user", "assistant"]] = {"customer": "user", "agent": "assistant"}


class Tickets(ftp.Formatter):
    """Support tickets: the customer asks, the agent answers, and the resolution is the last answer.

    The subject precedes the customer's first words. Consecutive events by one author are one turn, and if the agent
    spoke last, the resolution is added to that turn.
    """

    system: str = ""
    """A system turn added before every ticket. Empty: none."""

    def format(self, row: Mapping[str, Any]) -> ftp.Example:
        ticket = row.get("ticket")
        if isinstance(ticket, bool) or not isinstance(ticket, str | int) or not str(ticket).strip():
            raise ftp.RowError("'ticket'", "a number or text is needed: the ticket's id")
        events = row.get("events")
        if not isinstance(events, list) or not events:
            raise ftp.RowError("'events'", f"ticket {ticket}: a list of at least one event is needed")

        turns = [_event(event, f"'events' {number}", ticket) for number, event in enumerate(events, 1)]
        if turns[0].role != "user":
            raise ftp.RowError("'events' 1", f"ticket {ticket}: begins with the agent, so there is no question")
        turns.insert(0, ftp.Message("user", _text(row, "subject", "'subject'", ticket)))
        turns.append(ftp.Message("assistant", _text(row, "resolution", "'resolution'", ticket)))

        messages = [ftp.Message("system", self.system)] if self.system else []
        for turn in turns:
            if messages and messages[-1].role == turn.role:
                messages[-1] = ftp.Message(turn.role, f"{messages[-1].content}\n\n{turn.content}")
            else:
                messages.append(turn)
        return ftp.Example(tuple(messages))


def _event(event: object, where: str, ticket: object) -> ftp.Message:
    if not isinstance(event, dict):
        raise ftp.RowError(where, f"ticket {ticket}: an object with author and body is needed")
    author = event.get("author")
    if not isinstance(author, str) or author not in ROLES:
        raise ftp.RowError(where, f"ticket {ticket}: the author is {author!r}; known are {', '.join(ROLES)}")
    return ftp.Message(ROLES[author], _text(event, "body", where, ticket))


def _text(values: Mapping[str, Any], key: str, where: str, ticket: object) -> str:
    text = values.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ftp.RowError(where, f"ticket {ticket}: {key} must be text that is not empty")
    return text.strip()
