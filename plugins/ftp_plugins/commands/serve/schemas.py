"""Requests of OpenAI's API: the fields that are understood. What would have to be ignored is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ftp.lm.sampling import Sampling

COMPLETION_TOKENS = 16
"""The longest answer of a text completion that names none, as in OpenAI's API."""


class StreamOptions(BaseModel):
    """What a stream contains besides the answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ResponseFormat(BaseModel):
    """The form of the answer: text alone."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class _Request(BaseModel):
    """The fields that both kinds of request have."""

    model_config = ConfigDict(extra="forbid")

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = 1
    user: str | None = None
    """Says who asks; changes no answer."""
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    # Understood only at the values that change nothing.
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def answers(self) -> int:
        """How many answers."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def samplings(self, longest: int | None, logprobs: int | None) -> list[Sampling]:
        """Return how to sample each answer; with a seed each has one of its own."""
        return [
            Sampling(
                longest,
                self.temperature or 0.0,
                1.0 if self.top_p is None else self.top_p,
                None if self.seed is None else self.seed + number,
                self.stops,
                logprobs,
            )
            for number in range(self.answers)
        ]


class ChatRequest(_Request):
    """A request to /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same; give one")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def longest(self) -> int | None:
        """The longest answer in tokens; None for as many as the context holds."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to report; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Request):
    """A request to /v1/completions, with one prompt."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def longest(self) -> int:
        """The longest answer in tokens."""
        return self.max_tokens or COMPLETION_TOKENS

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to report; None for no log-probabilities."""
        return self.logprobs
