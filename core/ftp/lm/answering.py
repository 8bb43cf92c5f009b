"""Models that answer: prompts to token ids, decoders, and the pieces of several answers as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from ftp.errors import ModelError
from ftp.lm.rendering import prompt_ids
from ftp.lm.sampling import Piece, Request, Sampling
from ftp.types import Example, Message, Role


class Decodes(Protocol):
    """What decodes requests in batches, as `ftp.lm.torch_decode.Decoder`."""

    def add(self, request: Request) -> Any:
        """Queue a request."""

    def step(self) -> list[tuple[Any, Piece]]:
        """Decode one token of every request."""

    def drop_cancelled(self) -> None:
        """Have cancelled requests leave the batch."""


@dataclass(frozen=True, slots=True)
class AnsweringModel:
    """One of the models that a decoder answers with: the base model, or it with an adapter."""

    name: str
    decoder: Decodes
    tokenizer: Any
    """A fast tokenizer with a chat template."""
    stops: tuple[int, ...]
    """The tokens that end an answer."""
    adapter: str | None = None
    """Name of the adapter in the decoder's model; None for the base model, or one that is trained as a whole."""

    def chat(self, messages: Sequence[Message], sampling: Sampling, tools: str = "") -> Request:
        """Return the request for an answer to a conversation, rendered as in training and evaluation.

        Control tokens that the messages spell out stay text.

        Args:
            tools: JSON text of the list of tools that the chat template is given; empty for none.

        Raises:
            ModelError: the chat template refuses the messages.
        """
        example = Example((*messages, Message("assistant", "")), id="the conversation", tools=tools)
        return self._request(prompt_ids(self.tokenizer, example), sampling)

    def complete(self, text: str, sampling: Sampling) -> Request:
        """Return the request to continue a text, which the tokenizer reads as it is, special tokens included."""
        return self._request(self.tokenizer(text)["input_ids"], sampling)

    def _request(self, prompt: Sequence[int], sampling: Sampling) -> Request:
        return Request(prompt, self.tokenizer, self.stops, self.adapter, sampling)


def together(requests: Sequence[tuple[AnsweringModel, Request]]) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of several answers as they come, each with the number of its request.

    Models of one decoder answer in one batch. Leaving early cancels the answers.

    Raises:
        ModelError: a prompt doesn't fit into the model's context.
    """
    rows: list[tuple[Decodes, Any]] = []
    try:
        for model, request in requests:
            rows.append((model.decoder, model.decoder.add(request)))
        number = {id(row): at for at, (_, row) in enumerate(rows)}
        while any(not row.finish for _, row in rows):
            decoders = {id(decoder): decoder for decoder, row in rows if not row.finish}
            for decoder in decoders.values():
                for row, piece in decoder.step():
                    if id(row) in number:
                        yield number[id(row)], piece
    finally:
        for decoder, row in rows:
            row.cancelled = True
            decoder.drop_cancelled()


def as_messages(turns: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return turns in OpenAI's form as messages.

    Args:
        turns: each with `role` (`developer` counts as system), `content` (text, or a list of text parts) and where a
            turn has them `tool_calls`, `name`, `tool_call_id`.

    Raises:
        ModelError: a turn that can't be used, by its number.
    """
    if not turns:
        raise ModelError("messages: there are none")
    return [_message(turn, f"messages[{number}]") for number, turn in enumerate(turns)]


def _message(turn: Mapping[str, Any], where: str) -> Message:
    role = {"developer": "system"}.get(turn.get("role", ""), turn.get("role", ""))
    if role not in get_args(Role):
        raise ModelError(f"{where}: role: {role!r} is none of {', '.join(get_args(Role))}")
    unknown = sorted(set(turn) - {"role", "content", "tool_calls", "name", "tool_call_id", "refusal"})
    if unknown:
        raise ModelError(f"{where}: unknown field {unknown[0]!r}")
    calls = turn.get("tool_calls")
    return Message(
        role,
        _text_of(turn.get("content"), where),
        tool_calls=json.dumps(calls, ensure_ascii=False) if calls else "",
        name=turn.get("name") or "",
        tool_call_id=turn.get("tool_call_id") or "",
    )


def _text_of(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ModelError(f"{where}: content: only parts of type text can be read")
        return "".join(part["text"] for part in content)
    raise ModelError(f"{where}: content: expected text")
