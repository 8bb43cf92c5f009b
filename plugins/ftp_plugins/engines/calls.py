"""The calls of a service: made once, recorded on file, and replayed without a network."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict
from typing_extensions import TypedDict

from ftp.cache import user_cache
from ftp.errors import RunError
from ftp.files import digest, new_file, read_plain_file
from ftp.records.schemas import checked
from ftp.runs.directory import RunDirectory
from ftp_plugins.engines.budget import Budget, OverBudgetError, Prices
from ftp_plugins.engines.client import CallFailed, Reply, ServiceError

FILE = "judgments.jsonl"
MOST_BYTES = 2**30
"""The largest judgments.jsonl that is read."""
IN_A_ROW = 5
"""Consecutive failed calls after which the judge counts as unavailable."""
AGAIN = "Your last reply could not be read. Reply with the JSON object asked for above, whole, and nothing after it."

Ask = Callable[[Mapping[str, Any]], Awaitable[Reply]]
Verdict = dict[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Asked:
    """Identifies a call. Each combination of the four is asked once in a run."""

    evaluator: str
    evals: str
    example: str
    order: str
    """`base` or `tuned` for an answer graded on its own; `base first` or `tuned first` for two compared."""


class Calls:
    """The calls of one evaluation.

    A reply is recorded twice: in a file of the run, such as `judgments.jsonl`, and in a cache shared by all runs,
    under the SHA-256 of the whole request. A call whose request was answered before is not repeated.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        directory: Path | None,
        prompt_hash: str,
        concurrency: int = 8,
        replay: bool = False,
        prices: Prices | None = None,
        max_cost: float | None = None,
        evaluator: str = "",
        file: str = FILE,
    ) -> None:
        """Open the calls of an evaluation.

        Args:
            ask: makes the call. May raise ServiceError and CallFailed.
            directory: the run's, or None to write no file.
            file: the name of the file in it.
            replay: make no call at all.
            evaluator: what it spent in this run before counts against `max_cost`.
        """
        self._ask, self._replay, self._prices, self._prompt_hash = ask, replay, prices, prompt_hash
        self._file = file
        self._run = RunDirectory(directory) if directory else None
        self._lines = {_key(line): line for line in read_lines(self._run, file)}
        self._known = {line["request"]: line for line in self._lines.values() if line["error"] is None}
        self._slots = asyncio.Semaphore(concurrency)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        spent = sum(line["cost"] or 0 for line in self._lines.values() if line["evaluator"] == evaluator)
        self.budget = Budget(max_cost, spent)
        self.records: dict[tuple[str, ...], dict[str, Any]] = {}
        """The calls of this evaluation."""
        self._failures = 0

    async def verdict(
        self, request: Mapping[str, Any], asked: Asked, read: Callable[[str], Verdict | None]
    ) -> tuple[Verdict | None, str]:
        """Ask the judge, and once more if the reply can't be read.

        Args:
            request: `messages`, `parameters`, `schema` and whatever else distinguishes it from other requests.
            read: extracts the verdict from a reply, or returns None.

        Returns:
            The verdict, or None and the reason why there is none.

        Raises:
            ServiceError: continuing is pointless, or a call is missing from a replay.
        """
        why = ""
        for attempt in (request, _again(request)):
            try:
                record = await self._reply(attempt, asked)
            except OverBudgetError:
                return None, "not asked: max_cost is reached"
            cut = record["finish"] == "length"
            # What is cut has lost its end, and the verdict that binds is the last one.
            verdict = None if record["error"] is not None or cut else read(record["reply"])
            self._write({**record, "verdict": verdict}, asked)
            if verdict is not None:
                return verdict, ""
            why = f"no reply: {record['error']}" if record["error"] is not None else "the reply can't be read"
            why += ", cut at the token limit" if cut else ""
            if record["error"] is not None and not record["error"].startswith("garbled"):
                break
        return None, why

    async def reply(self, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """Ask once and return the record of the call: its `reply`, or an `error`.

        Raises:
            ServiceError: continuing is pointless, or a call is missing from a replay.
            OverBudgetError: the call might cost more than what is left.
        """
        record = await self._reply(request, asked)
        self._write({**record, "verdict": None}, asked)
        return record

    async def _reply(self, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """Return the reply from the run's file, from the cache, or from a new call."""
        hash = digest(request)
        async with self._locks[hash]:
            known = self._known.get(hash) or _read_json(_cached(hash))
            if known is not None:
                self._known[hash] = known
                return {**known, "cached": True}
            earlier = self._lines.get(_key({**vars_of(asked), "request": hash}))
            if self._replay:
                if earlier is not None:
                    return earlier
                raise ServiceError(
                    f"{asked.evaluator}: replay: the call for {asked.example} ({asked.order}, eval set {asked.evals}) "
                    f"is neither in the run's {self._file} nor in the cache; run without --replay to make it"
                )
            async with self._slots:
                record = await self._call(request, hash)
            if record["error"] is None:
                self._known[hash] = record
                _write_json(_cached(hash), record)
            return record

    async def _call(self, request: Mapping[str, Any], hash: str) -> dict[str, Any]:
        most = self._prices.most(request) if self._prices else 0.0
        await self.budget.hold(most)
        start, cost, error, reply = time.monotonic(), 0.0, None, Reply("", "")
        try:
            reply = await self._ask(request)
            cost = self._prices.cost(reply, most) if self._prices else 0.0
            self._failures = 0
        except CallFailed as failed:
            error = f"{failed.how}: {failed}"
            cost = 0.0 if failed.how == "refused" else most
            self._failures += 1
            if self._failures >= IN_A_ROW:
                raise ServiceError(
                    f"{request['model']}: {self._failures} calls in a row got no reply, the last one: {failed}. What "
                    "was answered so far is kept; run again to continue from there"
                ) from None
        finally:
            await self.budget.settle(most, cost)
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": hash,
            "prompt": request["prompt"],
            "prompt_hash": self._prompt_hash,
            "model": request["model"],
            "reply": reply.text,
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "price": cost if self._prices else None,
            "attempts": reply.attempts,
            "seconds": round(time.monotonic() - start, 3),
            "cached": False,
            "error": error,
        }

    def _write(self, record: dict[str, Any], asked: Asked) -> None:
        """Write a line to the file unless it is there already, so that a resumed run repeats nothing."""
        line = {**vars_of(asked), **record, "cost": 0.0 if record["cached"] else record["price"]}
        key = _key(line)
        earlier = self._lines.get(key)
        if earlier is None or (earlier["error"] is not None and not self._replay):
            self._lines[key] = line
            if self._run is not None:
                self._run.append_line(self._file, json.dumps(line, ensure_ascii=True))
        self.records[key] = self._lines[key]

    async def all(self, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run all calls concurrently, the first ones first; an error ends the rest.

        Raises:
            ServiceError: also when calls were made and none was answered.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part) for part in work]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        failed = [line["error"] for line in self.records.values() if line["error"] is not None]
        if failed and len(failed) == len(self.records):
            raise ServiceError(f"no call was answered: {failed[0]}")
        return [task.result() for task in tasks]


def vars_of(asked: Asked) -> dict[str, str]:
    return {"evaluator": asked.evaluator, "evals": asked.evals, "example": asked.example, "order": asked.order}


def _key(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("evaluator", "evals", "example", "order", "request"))


def _again(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same request with a note that the reply had the wrong form."""
    *before, last = request["messages"]
    return {**request, "messages": [*before, {**last, "content": f"{last['content']}\n\n{AGAIN}"}]}


class Record(TypedDict):
    """What is kept of a call."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    request: str
    reply: str
    finish: str
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    price: float | None


class Line(Record):
    """A line of judgments.jsonl."""

    evaluator: str
    evals: str
    example: str
    order: str
    cost: float | None
    cached: bool


def read_lines(run: RunDirectory | None, file: str = FILE) -> list[dict[str, Any]]:
    """Return the calls on file, without a line that a killed process left unfinished.

    Raises:
        RunError: the file can't be read, or a line in it is damaged.
    """
    text = run.read_text(file, MOST_BYTES, "replace") if run else None
    found: list[dict[str, Any]] = []
    for number, line in enumerate((text or "").split("\n"), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "request" in record:
            try:
                found.append(checked(Line, record))
            except ValueError as error:
                assert run is not None
                raise RunError(f"{run.path / file}:{number}: damaged ({error}); remove the line") from None
    return found


def _cached(hash: str) -> Path:
    return user_cache("judgments") / hash[:2] / f"{hash}.json"


def _read_json(file: Path) -> Any:
    try:
        return checked(Record, json.loads(read_plain_file(file, 2**20)))
    except (OSError, ValueError, RecursionError):  # not there, or damaged: asked again
        return None


def _write_json(file: Path, record: Mapping[str, Any]) -> None:
    with new_file(file, shared=True) as aside:
        aside.write_text(json.dumps(record), encoding="utf-8")
