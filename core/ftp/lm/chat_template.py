"""Conversations to text by a chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftp.errors import ModelError
from ftp.lm.control_tokens import ControlTokens
from ftp.lm.template_limits import MOST_CHARACTERS, limited
from ftp.types import Message


@dataclass(frozen=True, slots=True)
class Turns:
    """What a chat template is given."""

    messages: Sequence[Message]
    tools: str = ""
    controls: ControlTokens | None = None
    """Set where spellings of control tokens are to stay text; the result is then written for the twin tokenizer."""

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the messages as chat templates take them."""
        found = [_turn(message) for message in self.messages]
        return self.controls.marked(found) if self.controls else found


def write_out(tokenizer: Any, rows: Sequence[Turns], answer_next: bool) -> list[str]:
    """Write the messages of many rows out with the chat template; those with the same tools are rendered together.

    Args:
        tokenizer: one with a chat template.
        answer_next: end where the assistant begins to speak.

    Raises:
        ModelError: the template refuses a row.
    """
    texts: list[Any] = [None] * len(rows)
    batches: dict[tuple[str, bool], list[int]] = {}
    for at, row in enumerate(rows):
        batches.setdefault((row.tools, row.controls is not None), []).append(at)
    for (tools_text, _), batch in batches.items():
        controls = rows[batch[0]].controls
        tools = json.loads(tools_text) if tools_text else None
        tools = controls.marked(tools) if controls else tools
        turns = [rows[at].as_dicts() for at in batch]
        _check_writes(tokenizer, tools, any("tool_calls" in turn for row in turns for turn in row))
        try:
            with limited():
                found = tokenizer.apply_chat_template(
                    turns, tools=tools, tokenize=False, add_generation_prompt=answer_next
                )
        except ModelError:
            raise
        except Exception as error:  # a template may stumble over what it doesn't know
            if len(batch) > 1:  # once more, to name the row
                for at in batch:
                    texts[at] = write_out(tokenizer, [rows[at]], answer_next)[0]
                continue
            roles = ", ".join(message.role for message in rows[batch[0]].messages)
            raise ModelError(f"the chat template refuses the turns {roles}: {error}") from None
        if max(map(len, found), default=0) > MOST_CHARACTERS:
            raise ModelError(f"the chat template makes more than {MOST_CHARACTERS:,} characters of a conversation")
        for at, text in zip(batch, found, strict=True):
            texts[at] = controls.for_twin(text) if controls else text
    return texts


def _check_writes(tokenizer: Any, tools: Any, has_calls: bool) -> None:
    """Refuse tools and calls that the chat template would leave out; many templates know none."""
    if not tools and not has_calls:
        return
    template = tokenizer.get_chat_template(tools=tools)
    if has_calls and "tool_calls" not in template:
        raise ModelError(
            "the rows have tool calls and the chat template leaves them out; set `chat_template:` on the model to one "
            "that writes `tool_calls`"
        )
    if tools and "tools" not in template:
        raise ModelError(
            "the rows have tools and the chat template leaves them out; set `chat_template:` on the model to one that "
            "writes `tools`, or leave the column out: `tools: null` on the format"
        )


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = json.loads(message.tool_calls)
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn
