"""The line to a judge: time, size, redirects and secrets."""

import asyncio
import gzip
import json
import time

import pytest
from judge_server import Say, serving

from ftp.types import EvalView
from ftp_plugins.engines.client import CallFailed, Server, ServiceError
from ftp_plugins.evaluators.judge import Judge
from ftp_plugins.evaluators.pairwise import Pairwise
from ftp_plugins.judging.verdicts import read_scores, read_winner

KEY = "sk-very-secret-4711"
ASK = [{"role": "user", "content": "Which?"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


def ask(server, **options):
    """One call to a scripted server."""

    async def call():
        async with Server("judge-1", server.url, **{"max_retries": 0, **options}).connect() as connection:
            return await connection.ask(ASK, {})

    return asyncio.run(call())


def body(text, **more):
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "1", "model": "m", "choices": [{"index": 0, "message": message, **more}]}).encode()


def test_a_server_that_drips_is_given_up_in_time():
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        for _ in range(100):  # a byte now and then: no single read is slow
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    with serving(lambda request: Say(stream=drip)) as server:
        began = time.monotonic()
        with pytest.raises(CallFailed, match=r"no answer within 0.5 s, tried 1 times"):
            ask(server, timeout=0.5)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_not_read_to_the_end(packed):
    def pour(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        if packed:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        if packed:
            handler.wfile.write(gzip.compress(b"x" * (100 << 20)))
            return
        block = b"x" * (1 << 20)
        for _ in range(100):
            handler.wfile.write(block)

    with (
        serving(lambda request: Say(stream=pour)) as server,
        pytest.raises(CallFailed, match="more than 4 MB") as failed,
    ):
        ask(server)
    assert failed.value.how == "garbled"


@pytest.mark.parametrize(
    "raw, why",
    [
        (body("x" * 100_001), "100,001 characters"),
        (body("\ud800 A"), "half a character"),
        (b'{"choices": ' + b"[" * 100_000, "can't be read|not a chat completion"),
    ],
)
def test_replies_that_are_none_are_unscored(raw, why):
    with serving(lambda request: Say(raw=raw)) as server, pytest.raises(CallFailed, match=why) as failed:
        ask(server)
    assert failed.value.how == "garbled"


def test_a_redirect_to_another_host_is_refused_and_named():
    with serving(lambda request: Say(status=307, headers=(("Location", "http://evil.example/v1"),))) as server:
        with pytest.raises(ServiceError, match=r"redirects to another host, 'evil\.example'; nothing was sent there"):
            ask(server)
        assert len(server.asked) == 1


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/v1", "ftp://127.0.0.1/v1"])
def test_a_redirect_to_another_server_of_the_same_host_is_refused(location):
    with serving(lambda request: Say(status=307, headers=(("Location", location),))) as server:
        with pytest.raises(ServiceError, match=r"redirects to another server, '(http|ftp)://127\.0\.0\.1"):
            ask(server)
        assert len(server.asked) == 1


def test_a_redirect_on_the_same_server_is_followed():
    def say(request):
        return Say("A") if len(server.asked) > 1 else Say(status=307, headers=(("Location", "/v2/chat/completions"),))

    with serving(say) as server:
        assert ask(server).text == "A"


def test_an_answer_packed_twice_is_not_unpacked():
    def pour(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip, gzip")
        handler.end_headers()
        handler.wfile.write(gzip.compress(gzip.compress(b"x" * (100 << 20))))

    with (
        serving(lambda request: Say(stream=pour)) as server,
        pytest.raises(CallFailed, match="packed more than once") as failed,
    ):
        ask(server)
    assert failed.value.how == "garbled"


def test_a_key_in_a_refusal_is_not_passed_on():
    with (
        serving(lambda request: Say(status=401, message=f"Incorrect key provided: {KEY}.")) as server,
        pytest.raises(ServiceError, match="Incorrect key provided: …") as refused,
    ):
        ask(server)
    assert KEY not in str(refused.value)
    with (
        serving(lambda request: Say(status=400, message=f"{KEY} may not")) as server,
        pytest.raises(CallFailed, match="… may not"),
    ):
        ask(server)


def test_a_key_that_the_server_repeats_is_not_passed_on():
    with serving(lambda request: Say(raw=body(f"I know {KEY}", finish_reason=KEY))) as server:
        reply = ask(server)
    assert KEY not in reply.text + reply.finish and reply.text == "I know …"
    other = serving(lambda request: Say(status=404, message="none"), models=(f"judge-1-{KEY}",))
    with other as server, pytest.raises(ServiceError) as refused:
        ask(server)
    assert KEY not in str(refused.value) and "judge-1-…" in str(refused.value)


@pytest.mark.parametrize(
    "options, place",
    [
        ({"base_url": f"https://me:{KEY}@judge.example/v1"}, "base_url"),
        ({"base_url": f"https://judge.example/v1?key={KEY}"}, "base_url"),
        ({"api_key_env": KEY}, "api_key_env"),
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(ftp_recipe, ftp, options, place):
    judge = {"use": "judge", "model": "judge-1", **options}
    result = ftp("check", str(ftp_recipe(evaluate=[judge])))
    assert result.code == 2 and f"evaluate.0.{place}: " in result.err
    assert KEY not in result.err + result.out


@pytest.mark.parametrize(
    "text", ["\n" * 100_000, "my\n" * 33_000, "final\n" * 16_000, "{" * 100_000, "verdict: " * 11_000]
)
def test_long_replies_are_read_in_time(text):
    began = time.monotonic()
    read_scores(text, {"accuracy": 5, "helpfulness": 5})
    read_winner(text)
    assert time.monotonic() - began < 20  # 10,000 line breaks took 26 s


# --- the rehearsal ----------------------------------------------------------------------------------------------------


def rehearse(address, **options):
    view = EvalView("heldout", [], [], [], [], [])
    judge = {"model": "judge-1", "base_url": address, "max_retries": 0, **options}
    for evaluator in (Judge(**judge), Pairwise(**judge)):
        assert evaluator.rehearse(view) is None


def test_a_rehearsal_pays_for_nothing():
    with serving(models=("other",)) as server:
        rehearse(server.url)
        assert (server.asked, server.listed) == ([], 2)


@pytest.mark.parametrize(
    "models",
    [
        Say(status=404, message="no such path"),
        Say(status=500, message="no cache"),
        Say(status=403, message="this key may not list models"),
        Say(status=401, message="You have insufficient permissions for this operation."),
        Say(raw=b"<html>"),
        Say(raw=b"[" * 100_000),
    ],
)
def test_a_server_that_lists_no_models_may_be_a_judge(models):
    with serving(models=models) as server:
        rehearse(server.url)


def test_a_judge_that_no_call_could_reach_fails_in_the_rehearsal():
    with serving(models=Say(status=401, message=f"wrong key {KEY}")) as server:
        with pytest.raises(ServiceError, match=r"wrong key …; the key in \$OPENAI_API_KEY may be wrong"):
            rehearse(server.url)
        address = server.url
    with pytest.raises(ServiceError, match=r"can't be reached: .*; is base_url right, and is the server running"):
        rehearse(address)
    rehearse(address, replay=True)
    away = Say(status=301, headers=(("Location", "http://evil.example/v1"),))
    with serving(models=away) as server, pytest.raises(ServiceError, match=r"another host, 'evil\.example'"):
        rehearse(server.url)


def test_a_dead_judge_ends_a_run_before_its_training(ftp, ftp_recipe, ftp_tiny_model, tmp_path):
    with serving() as server:
        address = server.url
    recipe = ftp_recipe(
        model={"id": str(ftp_tiny_model), "device": "cpu"},
        answers={"max_new_tokens": 4},
        evaluate=[{"use": "judge", "model": "judge-1", "base_url": address, "max_retries": 0}],
    )
    result = ftp("run", str(recipe))
    assert result.code == 2 and "is the server running" in result.err and "Traceback" not in result.err
    [run] = (tmp_path / "runs" / "small").iterdir()
    assert list((run / "answers").glob("base-*")) and not (run / "checkpoints").exists()
    assert not (run / "training.json").exists()
