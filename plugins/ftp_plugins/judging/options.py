"""What both evaluators with a judge share: the options, and the calls opened from them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp.files import digest
from ftp.options import is_replay
from ftp.recipe.model import dump
from ftp_plugins.judging import prompts
from ftp_plugins.judging.budget import Prices
from ftp_plugins.judging.calls import Calls
from ftp_plugins.judging.client import Server
from ftp_plugins.judging.local import WEAKNESS, LocalModel

SERVER_ONLY = (
    *("base_url", "temperature", "max_tokens", "max_completion_tokens", "max_cost"),
    *("price_per_million_input", "price_per_million_output"),
)

MOST_SECONDS = 30.0
"""The longest that the rehearsal waits for a server."""


def _local_directory(value: str, info: ValidationInfo) -> str:
    """Return the absolute path of a local model's directory beside the recipe; a hub id unchanged."""
    if info.data.get("provider") != "local":
        return value
    local = Path((info.context or {}).get("directory", "."), Path(value).expanduser())
    return str(local) if local.is_dir() or value.startswith((".", "/", "~")) else value


class JudgeOptions(ftp.Evaluator):
    """An evaluator that asks a judge."""

    requires: ClassVar[tuple[str, ...]] = ("platformdirs", "scipy", "sklearn", "statsmodels")

    provider: Literal["openai", "local"] = "openai"
    """openai: a server with OpenAI's protocol. local: a Hugging Face model in this process, which needs no key and no
    network but judges less well."""
    model: Annotated[str, Field(min_length=1), AfterValidator(_local_directory)]
    """The judge: its name on the server, or a hub id or directory with `provider: local`. With `loader:`, what to call
    it in the report."""
    loader: ftp.Loader | None = None
    """How a local judge is loaded, as in the recipe's `model:`. Default: `model` by Hugging Face's own loader."""
    base_url: str | None = None
    """Address of the server, such as http://localhost:8000/v1. Default: OpenAI's own."""
    api_key_env: str = Field(default="OPENAI_API_KEY", min_length=1)
    """The environment variable with the key. A server on this machine needs none."""
    concurrency: int = Field(default=8, ge=1)
    """Number of concurrent calls."""
    timeout: float = Field(default=120, gt=0)
    """Seconds to wait for an answer."""
    max_retries: int = Field(default=5, ge=0)
    """Retries after the first attempt when the server is busy, broken or silent."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature. Default: not sent, since some models refuse it."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The longest reply, in tokens. Default: not sent."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The same under the name that newer models require. Default: not sent."""
    structured: Literal["auto", "on", "off"] = "auto"
    """Ask the server for JSON of a given schema. auto: until it refuses. Replies are validated in any case."""
    reference: bool = True
    """Show the judge the example's own answer."""
    max_answer_chars: int = Field(default=16_000, ge=1)
    """Longer answers are cut for the judge, which is informed of it."""
    price_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens sent, in any currency."""
    price_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens of replies."""
    max_cost: float | None = Field(default=None, gt=0)
    """Maximum amount that this evaluator may spend in a run. A call that could exceed it is not made."""
    calibrate: ftp.FilePath | None = None
    """A JSONL file of human judgements to measure the judge against."""
    replay: bool = False
    """Make no calls: take every reply from the run's judgments.jsonl or the cache. FTP_REPLAY=1 has the same effect."""

    def files(self) -> Sequence[Path]:
        return [Path(self.calibrate)] if self.calibrate is not None else []

    def needs_consent(self) -> Sequence[str]:
        if self.provider == "local" or self._replays:
            return []
        return [f"send prompts and answers to {self._server.address}, and the variable ${self.api_key_env} as its key"]

    def needs_consent_in_recipe(self) -> Sequence[str]:
        return [] if self.api_key_env.endswith("_API_KEY") else self.needs_consent()

    def rehearse(self, view: ftp.EvalView) -> None:
        """Try the address and the key of a server, without a completion: every verdict costs money or minutes.

        Raises:
            JudgeError: no call could reach the judge.
        """
        if self.provider != "local" and not self._replays:
            asyncio.run(self._try_connection())

    async def _try_connection(self) -> None:
        patience = {"timeout": min(self.timeout, MOST_SECONDS), "max_retries": min(self.max_retries, 2)}
        async with dataclasses.replace(self._server, **patience).connect() as connection:
            await connection.try_connection()

    def problems(self) -> list[str]:
        found = []
        if self.calibrate is not None and not Path(self.calibrate).is_file():
            found.append(f"calibrate: {self.calibrate}: no such file")
        if self.provider == "local":
            given = [name for name in SERVER_ONLY if getattr(self, name) is not None]
            return found + [f"{name}: is for a server; remove it with `provider: local`" for name in given]
        if self.loader is not None:
            found.append("loader: is for a judge in this process; it needs `provider: local`")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            found.append("max_tokens, max_completion_tokens: are the same option under two names; give one of them")
        if (self.price_per_million_input is None) != (self.price_per_million_output is None):
            found.append("price_per_million_input, price_per_million_output: give both or none")
        if self.max_cost is not None:
            if self._prices is None:
                found.append("max_cost: needs price_per_million_input and price_per_million_output")
            if self.max_tokens is None and self.max_completion_tokens is None:
                found.append(
                    "max_cost: needs max_tokens or max_completion_tokens, so that the cost of a call is limited"
                )
        server = self._server
        return found + (server.secrets_in_recipe() if self._replays else server.problems())

    @property
    def _replays(self) -> bool:
        return self.replay or is_replay()

    @property
    def _caller(self) -> str:
        """The name under which its calls are recorded.

        An evaluator on eval sets of its own has a separate budget from another one on the recipe's.
        """
        return f"{self.used_as} on its own" if self.on_its_own else self.used_as

    @property
    def _prices(self) -> Prices | None:
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        return Prices(self.price_per_million_input, self.price_per_million_output)

    @property
    def _server(self) -> Server:
        return Server(self.model, self.base_url, self.api_key_env, self.timeout, self.max_retries)

    @contextlib.asynccontextmanager
    async def _open(self, view: ftp.EvalView, prompt_hash: str) -> AsyncIterator[tuple[Calls, Requests]]:
        """Open the calls of an evaluation, and the maker of their requests."""
        async with contextlib.AsyncExitStack() as stack:
            local = LocalModel(self.model, self.loader) if self.provider == "local" else None
            if local is not None:
                ask = local.ask
            elif self._replays:
                ask = _never
            else:
                connection = await stack.enter_async_context(self._server.connect())

                async def ask(request: Mapping[str, Any]) -> Any:
                    return await connection.ask(
                        request["messages"],
                        request["parameters"],
                        request["schema"],
                        insist=self.structured == "on",
                    )

            calls = Calls(
                ask,
                directory=view.directory,
                prompt_hash=prompt_hash,
                concurrency=self.concurrency,
                replay=self._replays,
                prices=self._prices,
                max_cost=self.max_cost,
                evaluator=self._caller,
            )
            yield calls, Requests(self, local)

    def _instrument(self, calls: Calls, prompt_hash: str) -> tuple[list[str], dict[str, float | str]]:
        """Report on the calls: notes, and figures for the panel."""
        lines = list(calls.records.values())
        tokens = {name: sum(line[f"{name}_tokens"] or 0 for line in lines) for name in ("prompt", "completion")}
        where = "in this process" if self.provider == "local" else f"at {self._server.address}"
        notes = [
            f"judge: {self.model} {where}, prompt version {prompts.VERSION} ({prompt_hash[:12]}), {len(lines)} calls"
        ]
        panel: dict[str, float | str] = {
            "judge": self.model,
            "prompt": f"{prompts.VERSION} ({prompt_hash[:12]})",
            "calls": len(lines),
            "calls from cache": sum(line["cached"] for line in lines),
            "prompt tokens": tokens["prompt"],
            "completion tokens": tokens["completion"],
        }
        if self._prices is not None:
            panel["cost"] = sum(line["cost"] or 0 for line in lines)
            panel["cost without cache"] = sum(line["price"] or 0 for line in lines)
            uncounted = sum(line["error"] is None and line["prompt_tokens"] is None for line in lines)
            if uncounted:
                notes.append(
                    f"the server gave no usage for {uncounted} calls; they are counted at their maximum possible cost"
                )
        if calls.budget.is_over:
            notes.append(
                f"stopped at max_cost: {self.max_cost:g} would have been exceeded; every reply is kept, and a run with "
                "a higher max_cost continues from there"
            )
        if self.provider == "local":
            notes.append(WEAKNESS)
        return notes, panel


class Requests:
    """Makes requests.

    A request contains everything that determines the reply, so that equal requests are the same call.
    """

    def __init__(self, options: JudgeOptions, local: LocalModel | None) -> None:
        self._options, self._local = options, local

    def chat(self, text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request to a server."""
        options = self._options
        given = {
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "max_completion_tokens": options.max_completion_tokens,
        }
        return {
            "provider": "openai",
            "base_url": options._server.address,
            "model": options.model,
            "messages": [{"role": "user", "content": text}],
            "parameters": {name: value for name, value in given.items() if value is not None},
            "schema": None if options.structured == "off" else dict(schema),
            "prompt": prompts.VERSION,
        }

    def odds(self, text: str, prefix: str, choices: list[str]) -> dict[str, Any]:
        """Return a request to a local model for the probability of each choice as the next token after the prefix."""
        assert self._local is not None
        return {
            "provider": "local",
            "model": self._options.model,
            "fingerprint": self._local.fingerprint,
            **({"loader": dump(self._options.loader)} if self._options.loader else {}),
            "messages": [{"role": "user", "content": text}],
            "parameters": {},
            "schema": None,
            "prefix": prefix,
            "choices": choices,
            "prompt": prompts.VERSION,
        }


async def _never(request: Mapping[str, Any]) -> Any:
    raise AssertionError("a replay makes no call")


def prompt_hash(text: str) -> str:
    """Return the SHA-256 of a prompt made of placeholders: the wording without the data."""
    return digest(text)
