"""How `ftp serve` holds up under many clients: latencies, tokens per second, and whether a request was lost.

    python bench/serve.py [--requests 200] [--clients 16] [--max-tokens 32] [--json] [RUN RUN]

Starts a server with two runs on one base model and asks both adapters and the base in turn, by streams and whole
answers in turn. Without runs, two are trained on a tiny model first. The first ten requests warm up and don't count.
Requests that find the queue full (429) are sent again after the time that the server names, and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import yaml

WARM_UP = 10
SERVE = "from ftp_plugins.commands.serve import command; command()"


def train(place: Path, name: str, rank: int) -> Path:
    """Train a small adapter on the tiny model of the test kit and return its run."""
    from ftp.testing.fixtures import write_tiny_model

    model = place / "tiny"
    if not model.exists():
        write_tiny_model(model)
    rows = [{"prompt": f"Double {n}.", "completion": f"{name}: {2 * n} it is."} for n in range(40)]
    (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "name": name,
        "model": {"use": "huggingface", "id": str(model)},
        "adapter": {"use": "lora", "r": rank},
        "data": {"train": [{"path": f"{name}.jsonl", "format": {"use": "prompt_completion"}}], "validation": "10%"},
        "train": {"use": "sft", "epochs": 2},
        "evaluate": [],
    }
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "ftp", "run", str(file), "--runs", str(place / "runs")]
    subprocess.run(command, check=True, capture_output=True)
    return max((place / "runs" / name).iterdir())


@contextlib.contextmanager
def serving(runs: list[Path]) -> Iterator[str]:
    """Start the server in a process of its own; yields its address."""
    named = [f"adapter-{number}={run}" for number, run in enumerate(runs)]
    command = [sys.executable, "-c", SERVE, *named, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if line.startswith("Serving "):
                yield line.split(" at ")[1].strip()
                break
        else:
            raise SystemExit("the server did not start")
        server.send_signal(signal.SIGTERM)
        if server.wait(60):
            raise SystemExit(f"the server ended with exit code {server.returncode}")
    finally:
        server.kill()
        server.wait()


def ask(client: openai.OpenAI, model: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Send one request, again where the queue is full, and return its figures."""
    messages = [{"role": "user", "content": f"Double {number}." + " Why is it so?" * (number % 7)}]
    began, full = time.perf_counter(), 0
    while True:
        try:
            first, tokens = _answer(client, model, messages, number % 2 == 0, options.max_tokens)
            break
        except openai.RateLimitError as error:
            full += 1
            time.sleep(float(error.response.headers["retry-after"]))
    return {"seconds": time.perf_counter() - began, "first": first - began, "tokens": tokens, "full": full}


def _answer(client: openai.OpenAI, model: str, messages: Any, stream: bool, longest: int) -> tuple[float, int]:
    if not stream:
        whole = client.chat.completions.create(model=model, messages=messages, max_tokens=longest)
        return time.perf_counter(), whole.usage.completion_tokens if whole.usage else 0
    chunks = client.chat.completions.create(
        model=model, messages=messages, max_tokens=longest, stream=True, stream_options={"include_usage": True}
    )
    first, tokens = None, 0
    for chunk in chunks:
        first = first or time.perf_counter()
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return first or time.perf_counter(), tokens


def load_up(address: str, options: argparse.Namespace) -> dict[str, Any]:
    """Send all requests from all clients and return the figures."""
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=600) as client:
        models = [model.id for model in client.models.list()]
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        found: list[dict[str, Any]] = []
        lost: list[str] = []

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    number = waiting.get_nowait()
                    try:
                        found.append(ask(client, models[number % len(models)], number, options))
                    except openai.OpenAIError as error:
                        lost.append(f"{type(error).__name__}: {error}")

        for number in range(WARM_UP):
            ask(client, models[number % len(models)], number, options)
        for number in range(options.requests):
            waiting.put(number)
        threads = [threading.Thread(target=work) for _ in range(options.clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
    if not found:
        raise SystemExit(f"every request was lost: {lost[:3]}")
    latencies, firsts = (sorted(one[key] for one in found) for key in ("seconds", "first"))
    return {
        "requests": options.requests,
        "clients": options.clients,
        "models": len(models),
        "answered": len(found),
        "lost": lost,
        "full_queue": sum(one["full"] for one in found),
        "seconds": seconds,
        "tokens_per_second": sum(one["tokens"] for one in found) / seconds,
        "p50": statistics.median(latencies),
        "p95": latencies[int(0.95 * (len(latencies) - 1))],
        "first_token_p50": statistics.median(firsts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = options.runs or [train(Path(place), name, rank) for name, rank in (("first", 4), ("second", 8))]
        with serving(runs) as address:
            found = load_up(address, options)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{found['answered']} of {found['requests']} answered, {len(found['lost'])} lost, from {found['clients']} "
            f"clients over {found['models']} models in {found['seconds']:.1f} s ({found['tokens_per_second']:.0f} "
            f"tokens/s); p50 {found['p50']:.2f} s, p95 {found['p95']:.2f} s, first token p50 "
            f"{found['first_token_p50']:.2f} s; {found['full_queue']} times the queue was full"
        )
    if found["lost"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
