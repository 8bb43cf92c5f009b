"""The client for a chat model behind an OpenAI-compatible server: a judge, or an engine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import ftp
from ftp.errors import did_you_mean

OPENAI = "https://api.openai.com/v1"
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Pattern for names of environment variables; a key pasted instead of a name has lower case letters or dashes."""
MOST_CHARACTERS = 100_000
"""The longest reply that is searched for a verdict."""
REDIRECTED = "nothing was sent there; if that is intended, make it the base_url"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ServiceError(ftp.FtpError):
    """The service can't be asked, or its replies can't be obtained."""


class CallFailed(Exception):  # noqa: N818 (of a call, not of the program)
    """A call got no reply, after the client's own retries."""

    def __init__(self, why: str, how: Literal["refused", "lost", "garbled"]) -> None:
        """Record how the call failed.

        Args:
            how: `refused` with an error, which costs nothing; `lost` on the way; or `garbled`: the answer is not a
                chat completion.
        """
        super().__init__(why)
        self.how = how


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a chat model."""

    text: str
    finish: str = "stop"
    """Why it ended: `stop`, or `length` when it was cut at the token limit."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1


def _split(address: str) -> SplitResult:
    """Take an address apart; empty parts for what is none."""
    try:
        parts = urlsplit(address)
        return parts if parts.port != 0 else urlsplit("")
    except ValueError:  # a bracket or a port that can't be
        return urlsplit("")


@dataclass(frozen=True, slots=True)
class Server:
    """The server of a chat model."""

    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = 120
    """Seconds for one attempt, from sending the request to the last byte of the answer."""
    max_retries: int = 5
    """Retries after the first attempt on 408, 409, 429, 5xx, time-outs and lost connections."""

    @property
    def address(self) -> str:
        # Said to the client too, which would read OPENAI_BASE_URL otherwise: the recipe alone decides.
        return self.base_url or OPENAI

    @property
    def needs_key(self) -> bool:
        return _split(self.address).hostname not in LOOPBACK

    def secrets_in_recipe(self) -> list[str]:
        """Return the options that hold a secret; the messages don't repeat it."""
        found = []
        parts = _split(self.address)
        unreadable = not parts.scheme and not {*"@?"}.isdisjoint(self.address)
        if parts.username or parts.password or parts.query or parts.fragment or unreadable:
            found.append(
                "base_url: has a user name, a password or a query in it; give the plain address, and the key in the "
                "environment variable that api_key_env names"
            )
        if not VARIABLE.fullmatch(self.api_key_env):
            found.append(
                "api_key_env: not the name of an environment variable (capital letters, digits and _); if it is the "
                "key itself, remove it from the recipe and put it into a variable"
            )
        return found

    def problems(self) -> list[str]:
        """Return what is missing on this machine."""
        if found := self.secrets_in_recipe():
            return found
        has_client = importlib.util.find_spec("openai")
        found = [] if has_client else ["openai is not installed: pip install 'ftp-finetune[judge]'"]
        parts = _split(self.address)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or re.search(r"[\x00-\x20\x7f-\x9f]", self.address)
        ):
            found.append(f"base_url: {self.address}: not an address; it is like http://localhost:8000/v1")
        elif self.needs_key and not os.environ.get(self.api_key_env):
            found.append(f"${self.api_key_env} is not set; it has to hold the key for {self.address}")
        return found

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Open a client.

        Raises:
            ServiceError: there is no key.
        """
        import openai

        from ftp_plugins.engines.transport import http_client

        key = os.environ.get(self.api_key_env) or ""
        if not key and self.needs_key:
            raise ServiceError(
                f"the environment variable {self.api_key_env} is not set; it has to hold the key for {self.address}"
            )
        async with openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=self.address,
            timeout=self.timeout,
            max_retries=self.max_retries,
            http_client=http_client(self.timeout),
        ) as client:
            yield Connection(self, client, key)


class Connection:
    """An open client. It waits as long as `retry-after` says (up to two minutes) before retrying."""

    def __init__(self, server: Server, client: Any, key: str) -> None:
        self._server, self._client, self._key = server, client, key
        self._structured = True

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        parameters: Mapping[str, Any],
        schema: Mapping[str, Any] | None = None,
        *,
        insist: bool = False,
    ) -> Reply:
        """Make one call.

        Args:
            parameters: sent unchanged: `temperature`, `max_tokens`, …
            schema: JSON schema of the reply; left out once the server has refused one.
            insist: refuse to continue without the schema.

        Raises:
            ServiceError: no call can work: the key or the model is wrong.
            CallFailed: this call got no reply.
        """
        import openai

        from ftp_plugins.engines.transport import REFUSED

        asked = dict(parameters)
        if schema is not None and (insist or self._structured):
            shape = {"name": "verdict", "strict": True, "schema": schema}
            asked["response_format"] = {"type": "json_schema", "json_schema": shape}
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=self._server.model, messages=list(messages), **asked
            )
            completion = raw.parse()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._no_use(error, f"the key in ${self._server.api_key_env} may be wrong or expired") from None
        except openai.NotFoundError as error:
            raise self._no_use(error, await self._offered()) from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "response_format" not in asked or insist:
                raise CallFailed(self._what(error), "refused") from None
            self._structured = False
            return await self.ask(messages, parameters)
        except openai.APIConnectionError as error:
            raise CallFailed(self._what(error), "lost") from None
        except openai.APIStatusError as error:
            why = error.response.headers.get(REFUSED)
            if why == "redirect":
                raise self._no_use(error, REDIRECTED) from None
            raise CallFailed(self._what(error), "garbled" if why == "size" else "refused") from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise CallFailed(f"the server's answer can't be read: {self._what(error)}", "garbled") from None
        return self._reply(completion, raw.retries_taken + 1)

    async def try_connection(self) -> None:
        """Ask for the list of models, which costs nothing, to see whether a server answers and accepts the key.

        That a server lists no models, or not this one, proves nothing: many are like that and answer all the same.

        Raises:
            ServiceError: the server can't be reached, refuses the key, or redirects to another host.
        """
        import openai

        from ftp_plugins.engines.transport import REFUSED

        try:
            await self._client.models.list()
        except openai.APIConnectionError as error:
            raise self._no_use(error, "is base_url right, and is the server running?") from None
        except openai.AuthenticationError as error:
            if "permission" in self._what(error).lower():
                return  # a key for completions alone, which may not list models
            raise self._no_use(error, f"the key in ${self._server.api_key_env} may be wrong or expired") from None
        except openai.APIStatusError as error:
            if error.response.headers.get(REFUSED) == "redirect":
                raise self._no_use(error, REDIRECTED) from None
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, RecursionError):
            return  # something answers, if not with a list of models

    def _no_use(self, error: Exception, advice: str) -> ServiceError:
        """Return the error for a judge that no call can reach."""
        return ServiceError(f"{self._server.model} at {self._server.address}: {self._what(error)}; {advice}")

    async def _offered(self) -> str:
        """Return advice for when there is no such model."""
        import openai

        try:
            page = (await self._client.models.list()).data
            offered = [self._without_key(str(model.id))[:100] for model in page[:1000]]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return "base_url may be wrong: it usually ends in /v1"
        if self._server.model in offered:
            return "the server lists the model, so base_url may be wrong: it usually ends in /v1"
        return f"the server has no model {self._server.model!r}{did_you_mean(self._server.model, offered)}"

    def _what(self, error: Exception) -> str:
        """Describe an error of the client in one line, without the key."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return f"no answer within {self._server.timeout:g} s, tried {self._server.max_retries + 1} times"
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            said = f"can't be reached: {error.__cause__}"
        lines = str(said or error).strip().splitlines() or [type(error).__name__]
        status = getattr(error, "status_code", None)
        text = f"{status}: {lines[0]}" if status and str(status) not in lines[0] else lines[0]
        return self._without_key(text)[:500]

    def _without_key(self, text: str) -> str:
        """Return a text of the server's without the key, in case the server has repeated it."""
        return text.replace(self._key, "…") if self._key else text

    def _reply(self, completion: Any, attempts: int) -> Reply:
        """Read a chat completion.

        Raises:
            CallFailed: it isn't one, or its text is not valid Unicode or longer than any verdict.
        """
        try:
            choice = completion.choices[0]
            text = choice.message.content or getattr(choice.message, "refusal", None) or ""
        except (AttributeError, IndexError, TypeError, KeyError):
            text = None
        if not isinstance(text, str):
            raise CallFailed("the server's answer is not a chat completion", "garbled")
        if len(text) > MOST_CHARACTERS:
            raise CallFailed(f"the reply has {len(text):,} characters, more than {MOST_CHARACTERS:,}", "garbled")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise CallFailed("the reply is not valid Unicode: it holds half a character", "garbled")
        usage = getattr(completion, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        prompt, said = (count if isinstance(count, int) else None for count in counts)
        finish = self._without_key(str(choice.finish_reason or "stop"))[:40]
        return Reply(self._without_key(text), finish, prompt, said, attempts)
