"""A server on loopback that speaks OpenAI's protocol and says what a test scripts."""

import contextlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Say(NamedTuple):
    """One response of the server."""

    text: str = ""
    finish: str = "stop"
    status: int = 200
    message: str = ""
    headers: tuple = ()
    raw: bytes | None = None
    """The whole body in place of a chat completion."""
    cut: bool = False
    """Break the connection off in the middle of the body."""
    hang: float = 0
    usage: tuple | None = (100, 20)
    stream: object = None
    """Called with the handler in place of a whole response."""


def prompt_of(request):
    return request["messages"][-1]["content"]


def between(prompt, name):
    """What stands in a block of the prompt."""
    return re.search(rf"<({name}-[0-9a-f]{{12}})>\n(.*)\n</\1>", prompt, re.S)[2]


def scores(**values):
    return json.dumps({name: {"reason": f"{name} is so", "score": value} for name, value in values.items()})


def winner(name, reason="so it is"):
    return json.dumps({"reason": reason, "winner": name})


def grade_by_words(request):
    """A fair judge of toy answers: as many points as the answer has words, five at most."""
    level = max(1, min(5, len(between(prompt_of(request), "answer").split())))
    return Say(scores(accuracy=level, helpfulness=level, tone=5))


def longer(request):
    prompt = prompt_of(request)
    first, second = len(between(prompt, "answer-a")), len(between(prompt, "answer-b"))
    return Say(winner("A" if first > second else "B" if second > first else "tie"))


def either(request):
    """Grades or compares, whichever is asked."""
    return longer(request) if "<answer-a-" in prompt_of(request) else grade_by_words(request)


class JudgeServer(ThreadingHTTPServer):
    """`say(request)` returns a `Say`; `asked` holds the requests with their headers.

    `models` are listed, or a `Say` in place of the list; `listed` counts how often that was asked for.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, say=either, models=("judge-1", "judge-2")):
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.models = say, models
        self.asked, self.headers, self.listed = [], [], 0
        self.under_way = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that was killed or gave up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.listed += 1
        if isinstance(said := self.server.models, Say):
            text = (
                json.dumps({"error": {"message": said.message, "code": "x"}}) if said.raw is None else said.raw.decode()
            )
            self.send(said.status, text, said.headers)
            return
        self.send(200, json.dumps({"object": "list", "data": [{"id": m} for m in self.server.models]}))

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(request)
            self.server.headers.append(self.headers)
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            said = self.server.say(request)
            time.sleep(said.hang)
        finally:
            with self.server.lock:
                self.server.under_way -= 1
        if said.stream is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client has heard enough
                said.stream(self)
        elif said.status != 200:
            self.send(said.status, json.dumps({"error": {"message": said.message, "code": "x"}}), said.headers)
        elif said.raw is not None:
            self.send(200, said.raw.decode("utf-8", "replace"), said.headers)
        else:
            message = {"role": "assistant", "content": said.text}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": request["model"],
                "choices": [{"index": 0, "finish_reason": said.finish, "message": message}],
            }
            if said.usage:
                prompt, completion = said.usage
                reply["usage"] = {
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "total_tokens": prompt + completion,
                }
            self.send(200, json.dumps(reply), said.headers, said.cut)

    def send(self, status, text, headers=(), cut=False):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(say=either, **options):
    with JudgeServer(say, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
