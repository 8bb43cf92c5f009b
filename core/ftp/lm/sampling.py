"""How a model is to answer a prompt, and what it says step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["", "stop", "length"]
"""Why an answer ended: the model or a stop string ended it, or the limit of tokens did; empty while it goes on."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an answer are chosen."""

    max_new_tokens: int | None = None
    """The longest answer, in tokens; None for as many as the model's context holds."""
    temperature: float = 0.0
    """0 for the likeliest token (greedy decoding); otherwise logits are divided by it before a token is drawn."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that hold this share of the probability (Holtzman et al. 2020,
    arXiv:1904.09751)."""
    seed: int | None = None
    """Seed of the draws; None for other draws every time."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are no part of it."""
    logprobs: int | None = None
    """How many of the likeliest tokens to report beside each chosen one; None for no log-probabilities at all."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer."""

    prompt: Sequence[int]
    """Token ids."""
    tokenizer: Any
    """Turns the answer's ids into text; None for tokens alone, without text and stop strings."""
    stops: tuple[int, ...]
    """The tokens that end an answer."""
    adapter: str | None = None
    """Name of the adapter that answers; None for the base model."""
    sampling: Sampling = field(default=Sampling())


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, with natural log-probabilities at temperature 1."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]
    """Ids of the likeliest tokens with theirs, likeliest first."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step adds to an answer."""

    text: str
    """Empty while a character or a possible stop string isn't complete."""
    id: int | None
    """The token; None for the one that ends the answer."""
    choice: Choice | None
    """Set where log-probabilities are asked for."""
    finish: Finish


class AnswerText:
    """The text of an answer that grows by a token at a time.

    Characters that several tokens spell are held back until they are whole, and so is text that may turn out to be the
    beginning of a stop string.

    Args:
        tokenizer: decodes ids; special tokens are left out.
        stop: texts that end the answer.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(text for text in stop if text)
        self._ids: list[int] = []
        # Tokens before `_read` are text already. Decoding begins a little before, as the first of a text may lose its
        # space, and reads no more than that, as an answer may be long.
        self._prefix = self._read = 0
        self._held = ""
        self.stopped = False
        """Whether a stop string has been reached; what comes after it is dropped."""

    def add(self, id: int) -> str:
        """Return the text that a token completes."""
        self._ids.append(id)
        before = self._decoded(self._ids[self._prefix : self._read])
        now = self._decoded(self._ids[self._prefix :])
        if now.endswith("\ufffd"):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return self._released(now[len(before) :])

    def end(self) -> str:
        """Return what is still held back, at the end of the answer."""
        before = self._decoded(self._ids[self._prefix : self._read])
        rest = self._decoded(self._ids[self._prefix :])[len(before) :]
        self._prefix = self._read = len(self._ids)
        text = self._released(rest)
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _released(self, text: str) -> str:
        """Return the text that no stop string can begin in any more; cut it at one that is whole."""
        if self.stopped:
            return ""
        text = self._held + text
        ends = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are a beginning of the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
