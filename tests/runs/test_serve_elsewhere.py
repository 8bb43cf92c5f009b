"""`ftp serve --engine … --print`: the commands for other servers, and which export has to be made first."""

import json
import shlex
import shutil

import pytest
from trained_runs import train_run


def spoken(outcome):
    """The words of the command that was printed."""
    assert outcome.code == 0, outcome.err
    return [shlex.split(line) for line in outcome.out.splitlines() if not line.startswith("#")]


@pytest.fixture
def run(lora_runs, tmp_path):
    """A copy of a run that a test may add exports to."""
    return shutil.copytree(lora_runs.one, tmp_path / "runs" / "one" / "20260801-101500-1a2b")


def add_export(run, format, main, **more):
    place = run / "exports" / format
    place.mkdir(parents=True)
    record = {"format": format, "options": {}, "proven": True, "evaluated": True, "main": main, "written": "2026"}
    (place / "export.json").write_text(json.dumps(record | more))
    return place


def test_vllm_takes_adapters_of_one_base(ftp, lora_runs, ftp_tiny_model):
    runs = [f"a={lora_runs.one}", f"b={lora_runs.two}"]
    [command] = spoken(ftp("serve", *runs, "--engine", "vllm", "--print", "--port", "9000"))
    assert command[:3] == ["vllm", "serve", str(ftp_tiny_model)]
    at = command.index("--lora-modules")
    assert command[at + 1 : at + 3] == [f"a={lora_runs.one / 'model'}", f"b={lora_runs.two / 'model'}"]
    assert command[command.index("--max-lora-rank") + 1] == "8"
    assert command[command.index("--tokenizer") + 1] == str(lora_runs.one / "model")
    assert command[command.index("--dtype") + 1] == "float32"
    assert command[command.index("--port") + 1] == "9000"


def test_sglang_takes_adapters_too(ftp, lora_runs):
    outcome = ftp("serve", str(lora_runs.one), "--engine", "sglang", "--print")
    [command] = spoken(outcome)
    assert command[:4] == ["python", "-m", "sglang.launch_server", "--model-path"]
    assert f"one={lora_runs.one / 'model'}" in command
    assert ":one with temperature 0" in outcome.out


@pytest.mark.parametrize(("engine", "format"), [("llama.cpp", "gguf"), ("ollama", "ollama")])
def test_what_needs_an_export_says_which(ftp, run, engine, format):
    outcome = ftp("serve", str(run), "--engine", engine, "--print")
    assert outcome.code == 2 and f"First: ftp export {run} {format}" in outcome.err
    place = add_export(run, format, "one-F16.gguf")
    commands = spoken(ftp("serve", str(run), "--engine", engine, "--print"))
    wanted = place / ("one-F16.gguf" if engine == "llama.cpp" else "Modelfile")
    assert any(str(wanted) in command for command in commands)


def test_an_export_that_is_unproven_is_not_served(ftp, run):
    add_export(run, "gguf", "one-Q4_0-unproven.gguf", proven=False)
    outcome = ftp("serve", str(run), "--engine", "llama.cpp", "--print")
    assert outcome.code == 2 and "exports/gguf is unproven" in outcome.err


def test_an_adapter_that_a_server_cannot_load_is_merged_first(ftp, ftp_tiny_model, tmp_path):
    run = train_run(tmp_path, ftp_tiny_model, "dora", {"use": "lora", "r": 4, "dora": True})
    outcome = ftp("serve", str(run), "--engine", "vllm", "--print")
    assert outcome.code == 2 and "DoRA" in outcome.err and f"First: ftp export {run} merged" in outcome.err
    place = add_export(run, "merged", ".")
    [command] = spoken(ftp("serve", str(run), "--engine", "vllm", "--print"))
    assert command[2] == str(place) and "--lora-modules" not in command


def test_runs_on_other_base_models_are_served_apart(ftp, run, lora_runs):
    lock = json.loads((run / "run.lock.json").read_text())
    lock["model"]["fingerprint"] = "0" * 64
    (run / "run.lock.json").write_text(json.dumps(lock))
    outcome = ftp("serve", f"a={run}", f"b={lora_runs.two}", "--engine", "vllm", "--print")
    assert outcome.code == 2 and "different base models; serve them one by one" in outcome.err


def test_bad_command_lines(ftp, lora_runs):
    one = str(lora_runs.one)
    for arguments, says in (
        ((one, "--engine", "vllm"), "belong together"),
        ((one, "--print"), "belong together"),
        ((one, str(lora_runs.two), "--engine", "ollama", "--print"), "one model at a time"),
        ((f"a={one}", f"a={lora_runs.two}", "--port", "0"), "two models would be called 'a'"),
        (("nowhere", "--port", "0"), "nowhere"),
        ((one, "--api-key-env", "FTP_NO_SUCH_KEY"), "FTP_NO_SUCH_KEY is not set"),
    ):
        outcome = ftp("serve", *arguments)
        assert outcome.code == 2 and says in outcome.err, outcome.err
