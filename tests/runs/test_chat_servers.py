"""`ftp chat --server` with servers and addresses that are not what they should be."""

import contextlib
import http.server
import io
import json
import threading

import pytest
from mutator import outcome

KEY = "sk-very-secret-123"
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()


class Hostile(http.server.BaseHTTPRequestHandler):
    """Answers with what the path of its address is called."""

    models = {
        "list": b"[1,2]",
        "text": b'{"data": "abc"}',
        "page": b"<html>",
        "deep": b"[" * 100_000,
        "bytes": b"\xff\xfe",
        "nothing": b'{"data": [{"id": null}]}',
    }
    events = {
        "no-choices": b'{"id": "1"}',
        "no-delta": b'{"id": "1", "choices": [{"index": 0}]}',
        "odd-choices": b'{"id": "1", "choices": "abc"}',
        "odd-content": b'{"id": "1", "choices": [{"index": 0, "delta": {"content": 5}}]}',
        "no-json": b"{{{",
        "array": b"[1]",
        "latin": b"\xff\xfe",
        "refusal": b'{"error": {"message": "no \\u001b[31m"}}',
    }

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind = self.path.split("/")[1]
        status = {"redirect": 302, "repeats-the-key": 400}.get(kind, 200)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if kind == "redirect":
            self.send_header("Location", f"http://localhost:{self.server.server_port}/stolen/models")
        if kind == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.server.asked.append((kind, self.headers["Authorization"]))
        with contextlib.suppress(OSError):
            while kind == "endless":
                self.wfile.write(b" " * 2**20)
            if kind == "repeats-the-key":
                self.wfile.write(json.dumps({"error": {"message": f"bad {self.headers['Authorization']}"}}).encode())
            else:
                self.wfile.write(self.models.get(kind, MODELS))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: " + self.events[self.path.split("/")[1]] + b"\n\ndata: [DONE]\n\n")


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def chat(server, tmp_path, monkeypatch):
    def chat(url, *more):
        monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
        url = url if "://" in url or ":" in url else f"http://127.0.0.1:{server.server_port}/{url}"
        how, said = outcome(["chat", "--server", url, *more], tmp_path, seconds=30)
        assert how == "code 2" and "Traceback" not in said and "\x1b" not in said, (how, said)
        assert KEY not in said and "hunter2" not in said
        return said

    monkeypatch.setenv("MY_API_KEY", KEY)
    return chat


@pytest.mark.parametrize("kind", [*Hostile.models, "packed", "endless"])
def test_a_list_of_models_that_can_not_be_read(chat, kind):
    said = chat(kind)
    assert any(what in said for what in ("can't be read", "can't be reached", "names no model", "Connection")), said


@pytest.mark.parametrize("kind", Hostile.events)
def test_an_answer_that_can_not_be_read(chat, kind):
    said = chat(kind)
    assert any(what in said for what in ("can't be read", "no answer came", "no \\u001b[31m")), said


def test_a_redirect_is_not_followed(chat, server):
    assert "redirects elsewhere" in chat("redirect", "--api-key-env", "MY_API_KEY")
    assert ("redirect", f"Bearer {KEY}") in server.asked and not any(kind == "stolen" for kind, _ in server.asked)


def test_a_key_that_the_server_repeats_is_not_shown(chat):
    assert "bad Bearer …" in chat("repeats-the-key", "--api-key-env", "MY_API_KEY")
    assert "if it is the key itself" in chat("list", "--api-key-env", KEY)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://u:hunter2@127.0.0.1:9/v1", "has a user name"),
        ("http://127.0.0.1:9/v1?key=hunter2", "has a user name"),
        ("http://[u:hunter2@", "has a user name"),
        ("ftp://x", "is not an address"),
        ("::::", "is not an address"),
        ("http://[", "is not an address"),
        ("http://127.0.0.1:99999999", "is not an address"),
        ("http://127.0.0.1:9/\x1b[31mred", "is not an address"),
        ("http://127.0.0.1:9/v1", "can't be reached"),
    ],
)
def test_addresses_that_are_none(chat, url, what):
    assert what in chat(url)


@pytest.mark.parametrize("option", ["--temperature", "--top-p"])
def test_no_number_is_no_temperature(tmp_path, option):
    how, said = outcome(["chat", "anything", option, "nan"], tmp_path)
    assert how == "code 2" and "'nan' is not a number" in said


@pytest.mark.parametrize("config", [b"[" * 100_000, json.dumps({"base_model_name_or_path": "x" * 5000}).encode()])
def test_an_adapter_that_names_no_base_model(tmp_path, config):
    (tmp_path / "adapter_config.json").write_bytes(config)
    how, said = outcome(["chat", str(tmp_path)], tmp_path)
    assert how == "code 2" and "adapter_config.json: " in said, said
