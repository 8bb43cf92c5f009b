"""Answers in the form of OpenAI's API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftp.lm.sampling import Choice, Piece


def error_body(
    message: str, type: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> Any:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


@dataclass
class Answer:
    """One answer of a request, as its pieces come."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    choices: list[Choice] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Add what a step has brought."""
        self.text += piece.text
        if piece.id is not None:
            self.tokens += 1
            if piece.choice is not None:
                self.choices.append(piece.choice)
        self.finish = piece.finish or None


class Reply:
    """The response to a request, whole or in chunks.

    Args:
        model: name of the model.
        tokenizer: spells out tokens.
        chat: whether it is a chat completion.
        answers: how many.
    """

    def __init__(self, model: str, tokenizer: Any, chat: bool, answers: int) -> None:
        self.model, self.tokenizer, self.chat = model, tokenizer, chat
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.prompt_tokens = 0
        self.answers = [Answer() for _ in range(answers)]

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.finish for answer in self.answers)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompt and of all answers."""
        answered = sum(answer.tokens for answer in self.answers)
        total = self.prompt_tokens + answered
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": answered, "total_tokens": total}

    def whole(self) -> dict[str, Any]:
        """Return the response with all answers."""
        choices = []
        for index, answer in enumerate(self.answers):
            text: dict[str, Any] = {"text": answer.text}
            if self.chat:
                text = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
            logprobs = self._logprobs(answer.choices)
            choices.append({"index": index, **text, "finish_reason": answer.finish, "logprobs": logprobs})
        return {**self._head(False), "choices": choices, "usage": self.usage}

    def first_chunks(self, usage: bool) -> list[dict[str, Any]]:
        """Return the chunks that begin a stream: who speaks."""
        if not self.chat:
            return []
        delta = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk(index, delta, None, None, usage) for index in range(len(self.answers))]

    def chunk(self, number: int, piece: Piece, usage: bool) -> dict[str, Any] | None:
        """Return the chunk for a piece of an answer, or None where it has nothing to say."""
        choices = [piece.choice] if piece.choice is not None and piece.id is not None else []
        if not (piece.text or choices or piece.finish):
            return None
        text = (
            {"delta": {"content": piece.text} if piece.text or choices else {}} if self.chat else {"text": piece.text}
        )
        return self._chunk(number, text, piece.finish or None, self._logprobs(choices), usage)

    def last_chunk(self) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return {**self._head(True), "choices": [], "usage": self.usage}

    def _chunk(self, index: int, text: Any, finish: str | None, logprobs: Any, usage: bool) -> dict[str, Any]:
        choice = {"index": index, **text, "finish_reason": finish, "logprobs": logprobs}
        return {**self._head(True), "choices": [choice], **({"usage": None} if usage else {})}

    def _head(self, chunk: bool) -> dict[str, Any]:
        kind = f"chat.completion{'.chunk' if chunk else ''}" if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, choices: Sequence[Choice]) -> Any:
        if not choices:
            return None
        if not self.chat:
            return {
                "tokens": [self._spelled(choice.id) for choice in choices],
                "token_logprobs": [choice.logprob for choice in choices],
                "top_logprobs": [{self._spelled(id): logprob for id, logprob in c.likeliest} for c in choices],
            }
        return {
            "content": [
                {
                    **self._token(choice.id, choice.logprob),
                    "top_logprobs": [self._token(id, logprob) for id, logprob in choice.likeliest],
                }
                for choice in choices
            ],
            "refusal": None,
        }

    def _token(self, id: int, logprob: float) -> dict[str, Any]:
        text = self._spelled(id)
        # A token that is a part of a character has no text of its own.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    def _spelled(self, id: int) -> str:
        return str(self.tokenizer.decode([id]))
