"""The engine for models on a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.options import AnswerOptions
from ftp_plugins.engines.budget import OverBudgetError
from ftp_plugins.engines.calls import Asked, Calls
from ftp_plugins.engines.client import ServiceError
from ftp_plugins.engines.server_options import ServerOptions

FILE = "answers.jsonl"
"""The calls of a run, one a line."""


class OpenAI(ftp.Engine, ServerOptions):
    """Asks a chat model on any server with OpenAI's protocol. Every reply is kept and never paid for twice."""

    own_model: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("platformdirs",)

    model: str = Field(min_length=1)
    """The name of the model on its server."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The name under which the longest answer is sent; newer models of OpenAI require the second."""
    omit: list[Literal["temperature", "limit"]] = []
    """Parameters that are not sent since this model refuses them."""
    system: str | None = None
    """A system turn put before every prompt that has none, for a model that was not trained on the task."""

    def problems(self) -> list[str]:
        found = self.price_problems()
        if self.max_cost is not None and "limit" in self.omit:
            found.append("max_cost: needs a limit of tokens, so that the cost of a call is bounded")
        return found + self.server_problems(self.model)

    def answer(self, prompts: Sequence[ftp.Example], options: AnswerOptions) -> list[ftp.Answer]:
        return asyncio.run(self._answer(prompts, options))

    async def _answer(self, prompts: Sequence[ftp.Example], options: AnswerOptions) -> list[ftp.Answer]:
        if self.replays:
            return await self._all(None, prompts, options)
        async with self.server_of(self.model).connect() as connection:
            return await self._all(connection, prompts, options)

    async def _all(self, connection: Any, prompts: Sequence[ftp.Example], options: AnswerOptions) -> list[ftp.Answer]:
        async def ask(request: Mapping[str, Any]) -> Any:
            return await connection.ask(request["messages"], request["parameters"])

        calls = Calls(
            ask,
            directory=self.work.directory,
            prompt_hash="",
            concurrency=self.concurrency,
            replay=self.replays,
            prices=self.prices,
            max_cost=self.max_cost,
            evaluator=self._caller,
            file=FILE,
        )
        asked = [(example, sample) for example in prompts for sample in range(options.samples)]
        records = await calls.all([self._one(calls, example, sample, options) for example, sample in asked])
        failed = [record["error"] for record in records if record["error"] is not None]
        if failed:
            what = f"{len(failed)} of {len(records)} prompts got no answer, the first: {failed[0]}"
            raise ServiceError(f"{self._caller}: {what}. The other answers are kept; run again to ask for these")
        uncounted = sum(record["completion_tokens"] is None for record in records)
        if uncounted:
            what = f"the server gave no usage for {uncounted} of {len(records)} answers, so their tokens count as 0"
            self.work.note(f"{self._caller}: {what}.")
        return [_answer(record) for record in records]

    @property
    def _caller(self) -> str:
        return self.work.who or self.used_as

    async def _one(self, calls: Calls, example: ftp.Example, sample: int, options: AnswerOptions) -> dict[str, Any]:
        asked = Asked(self._caller, self.work.evals, example.id, f"sample {sample + 1}")
        try:
            record = await calls.reply(self._request(example, sample, options), asked)
        except OverBudgetError:
            raise ServiceError(
                f"{self._caller}: max_cost {self.max_cost:g} is reached before every prompt is answered. The answers "
                "are kept; raise it and run again"
            ) from None
        self.work.progress(1)
        return record

    def _request(self, example: ftp.Example, sample: int, options: AnswerOptions) -> dict[str, Any]:
        """Return everything that the reply depends on, so that equal requests are the same call."""
        parameters: dict[str, Any] = {}
        if "limit" not in self.omit:
            parameters[self.limit] = options.max_new_tokens
        if "temperature" not in self.omit:
            parameters["temperature"] = options.temperature
        if options.top_p < 1:
            parameters["top_p"] = options.top_p
        if example.tools:
            parameters["tools"] = json.loads(example.tools)
        messages = [_message(turn) for turn in example.prompt]
        if self.system and all(message["role"] != "system" for message in messages):
            messages.insert(0, {"role": "system", "content": self.system})
        return {
            "provider": "openai",
            "base_url": self.server_of(self.model).address,
            "model": self.model,
            "messages": messages,
            "parameters": parameters,
            "schema": None,
            "sample": sample,
            "prompt": "the prompt of the eval set",
        }


def _message(turn: ftp.Message) -> dict[str, Any]:
    """Return a turn as the protocol has it."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = json.loads(turn.tool_calls)
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    return message


def _answer(record: Mapping[str, Any]) -> ftp.Answer:
    return ftp.Answer(
        record["reply"].strip(),
        record["completion_tokens"] or 0,
        record["finish"] != "length",
        record["seconds"],
        record["price"],
    )
