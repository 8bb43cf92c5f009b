"""What both evaluators with a judge share: the options, and the calls opened from them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp.files import digest
from ftp.slots import dump
from ftp_plugins.engines.calls import Calls
from ftp_plugins.engines.client import Server
from ftp_plugins.engines.server_options import ServerOptions
from ftp_plugins.judging import prompts
from ftp_plugins.judging.local import WEAKNESS, LocalModel

if TYPE_CHECKING:
    from ftp.recipe import Recipe

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


class JudgeOptions(ftp.Evaluator, ServerOptions):
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
    calibrate: ftp.FilePath | None = None
    """A JSONL file of human judgements to measure the judge against."""

    def files(self) -> Sequence[Path]:
        return [Path(self.calibrate)] if self.calibrate is not None else []

    def needs_consent(self) -> Sequence[str]:
        if self.provider == "local" or self.replays:
            return []
        return [f"send prompts and answers to {self._server.address}, and the variable ${self.api_key_env} as its key"]

    def needs_consent_in_recipe(self) -> Sequence[str]:
        return [] if self.api_key_env.endswith("_API_KEY") else self.needs_consent()

    def rehearse(self, view: ftp.EvalView) -> None:
        """Try the address and the key of a server, without a completion: every verdict costs money or minutes.

        Raises:
            ServiceError: no call could reach the judge.
        """
        if self.provider != "local" and not self.replays:
            asyncio.run(self._try_connection())

    async def _try_connection(self) -> None:
        seconds, retries = min(self.timeout, MOST_SECONDS), min(self.max_retries, 2)
        async with dataclasses.replace(self._server, timeout=seconds, max_retries=retries).connect() as connection:
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
        found += self.price_problems()
        if self.max_cost is not None and self.max_tokens is None and self.max_completion_tokens is None:
            found.append("max_cost: needs max_tokens or max_completion_tokens, so that the cost of a call is limited")
        return found + self.server_problems(self.model)

    def cross_problems(self, recipe: Recipe) -> list[str]:
        if self.calibrate is None or any(evaluator == self for evaluator in recipe.evaluate):
            return []
        return ["calibrate: is read by a judge under `evaluate:`, not by one that is a reward; remove it"]

    @property
    def _caller(self) -> str:
        """The name under which its calls are recorded.

        An evaluator on eval sets of its own has a separate budget from another one on the recipe's.
        """
        return f"{self.used_as} on its own" if self.on_its_own else self.used_as

    @property
    def _server(self) -> Server:
        return self.server_of(self.model)

    @contextlib.asynccontextmanager
    async def _open(
        self, directory: Path | None, prompt_hash: str, caller: str = "", local: LocalModel | None = None
    ) -> AsyncIterator[tuple[Calls, Requests]]:
        """Open the calls of an evaluation, and the maker of their requests.

        Args:
            directory: the run's, for the records; None for none.
            caller: the name under which calls are recorded, if not the evaluator's.
            local: a judge in this process that is there already.
        """
        async with contextlib.AsyncExitStack() as stack:
            if local is None and self.provider == "local":
                local = LocalModel(self.model, self.loader)
            if local is not None:
                ask = local.ask
            elif self.replays:
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
                directory=directory,
                prompt_hash=prompt_hash,
                concurrency=self.concurrency,
                replay=self.replays,
                prices=self.prices,
                max_cost=self.max_cost,
                evaluator=caller or self._caller,
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
        if self.prices is not None:
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
