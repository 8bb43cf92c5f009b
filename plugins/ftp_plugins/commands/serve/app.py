"""The server's routes: OpenAI's API over the models in memory."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ftp.errors import did_you_mean
from ftp.files import without_controls
from ftp.lm import sampling
from ftp.lm.answering import AnsweringModel, as_messages
from ftp_plugins.commands.serve.responses import Reply, error_body
from ftp_plugins.commands.serve.schemas import ChatRequest, CompletionRequest
from ftp_plugins.commands.serve.worker import Answered, Event, Failed, Full, Job, Started, Worker, is_users_fault

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 16 * 2**20
"""The largest request."""
RETRY_AFTER = 1
"""Seconds after which a client that found the queue full should try again."""
Asked = TypeVar("Asked", ChatRequest, CompletionRequest)


def make_app(models: Mapping[str, AnsweringModel], worker: Worker, key: str | None, host: str) -> Starlette:
    """Return the application.

    Args:
        models: by name.
        key: what clients have to send as `Authorization: Bearer …`; None for no key.
        host: the address that the server listens on. On loopback, requests that name another host are refused: they
            come from a web page that has its name resolve to this machine.
    """
    server = _Server(models, worker, key)
    routes = [
        Route("/health", server.health),
        Route("/v1/models", server.list_models),
        Route("/v1/models/{name:path}", server.show_model),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.complete, methods=["POST"]),
    ]
    allowed = [*LOOPBACK, "["] if host in LOOPBACK else ["*"]  # of `[::1]:8000` that is what comes before the colon
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _refused})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error.detail if isinstance(error.detail, dict) else error_body(str(error.detail))
    return JSONResponse(body, error.status_code, headers=error.headers)


def _refusal(status: int, message: str, **more: Any) -> HTTPException:
    headers = more.pop("headers", None)
    return HTTPException(status, error_body(without_controls(message), **more), headers)


class _Server:
    def __init__(self, models: Mapping[str, AnsweringModel], worker: Worker, key: str | None) -> None:
        self.models, self.worker, self.key = models, worker, key

    async def health(self, request: Request) -> Response:
        """Say that the server is there, and how much it has to do."""
        if not self.worker.is_alive():
            return JSONResponse({"status": "stopped"}, 503)
        return JSONResponse({"status": "ok", "requests": self.worker.pending})

    async def list_models(self, request: Request) -> Response:
        """List the models."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [_card(name) for name in self.models]})

    async def show_model(self, request: Request) -> Response:
        """Return one of the models."""
        self._check_key(request)
        self._model(request.path_params["name"])
        return JSONResponse(_card(request.path_params["name"]))

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        asked = await self._read(request, ChatRequest)
        model = self._model(asked.model)

        def prepare() -> Sequence[sampling.Request]:
            tools = "" if asked.tool_choice == "none" or not asked.tools else json.dumps(asked.tools)
            messages = as_messages(asked.messages)
            return [model.chat(messages, each, tools) for each in asked.samplings(asked.longest, asked.likeliest)]

        return await self._respond(request, asked, model, prepare)

    async def complete(self, request: Request) -> Response:
        """Continue a text."""
        asked = await self._read(request, CompletionRequest)
        model = self._model(asked.model)

        def prepare() -> Sequence[sampling.Request]:
            return [model.complete(asked.text, each) for each in asked.samplings(asked.longest, asked.likeliest)]

        return await self._respond(request, asked, model, prepare)

    async def _respond(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest,
        model: AnsweringModel,
        prepare: Callable[[], Sequence[sampling.Request]],
    ) -> Response:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def deliver(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(model, prepare, deliver, asked.answers)
        try:
            self.worker.submit(job)
        except Full:
            headers = {"Retry-After": str(RETRY_AFTER)}
            what = f"{self.worker.pending} requests are in progress or wait; try again"
            raise _refusal(429, what, type="rate_limit_error", code="queue_full", headers=headers) from None
        reply = Reply(asked.model, model.tokenizer, isinstance(asked, ChatRequest), asked.answers)
        try:
            first = await _unless_gone(request, events.get())
            if isinstance(first, Failed):
                raise _failure(first.error)
            assert isinstance(first, Started)
            reply.prompt_tokens = first.prompt_tokens
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                stream = self._stream(job, events, reply, usage)
                return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            await _unless_gone(request, _collect(events, reply))
            return JSONResponse(reply.whole())
        except BaseException:
            self.worker.cancel(job)
            raise

    async def _stream(self, job: Job, events: asyncio.Queue[Event], reply: Reply, usage: bool) -> AsyncIterator[str]:
        try:
            for chunk in reply.first_chunks(usage):
                yield _sent(chunk)
            while not reply.finished:
                event = await events.get()
                if isinstance(event, Failed):
                    yield _sent(error_body(without_controls(str(event.error)), "server_error"))
                    return
                assert isinstance(event, Answered)
                reply.answers[event.number].add(event.piece)
                if chunk_ := reply.chunk(event.number, event.piece, usage):
                    yield _sent(chunk_)
            if usage:
                yield _sent(reply.last_chunk())
            yield "data: [DONE]\n\n"
        finally:  # also where the client is gone
            self.worker.cancel(job)

    async def _read(self, request: Request, schema: type[Asked]) -> Asked:
        self._check_key(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A page of another site could send anything else without this server's leave.
            raise _refusal(415, "the Content-Type has to be application/json")
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BYTES:
                raise _refusal(413, f"the request has more than {MOST_BYTES >> 20} MB")
        try:
            return schema.model_validate_json(bytes(body))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)[0]
            param = ".".join(str(part) for part in found["loc"]) or None
            what = found["msg"].removeprefix("Value error, ")
            if found["type"] == "extra_forbidden":
                what = f"this server has no such parameter{did_you_mean(str(found['loc'][-1]), schema.model_fields)}"
            raise _refusal(400, f"{param}: {what}" if param else what, param=param) from None

    def _check_key(self, request: Request) -> None:
        if self.key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise _refusal(401, "wrong or missing API key", type="authentication_error", code="invalid_api_key")

    def _model(self, name: str) -> AnsweringModel:
        if name not in self.models:
            what = f"no model '{name}'{did_you_mean(name, self.models)}"
            raise _refusal(404, what, param="model", code="model_not_found")
        return self.models[name]


def _failure(error: Exception) -> HTTPException:
    if is_users_fault(error):
        code = "context_length_exceeded" if "context has" in str(error) else None
        return _refusal(400, str(error), param="messages", code=code)
    return _refusal(500, f"{type(error).__name__}: {error}", type="server_error")


async def _collect(events: asyncio.Queue[Event], reply: Reply) -> None:
    while not reply.finished:
        event = await events.get()
        if isinstance(event, Failed):
            raise _failure(event.error)
        assert isinstance(event, Answered)
        reply.answers[event.number].add(event.piece)


T = TypeVar("T")


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for something, and give up when the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499)  # nobody reads it
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "ftp"}


def _sent(chunk: Any) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
