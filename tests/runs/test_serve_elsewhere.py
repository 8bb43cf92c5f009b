"""`ftp serve --engine … --print`: the commands for other servers, and which export has to be made first."""

import json
import os
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
    parity = {"prompts": 2, "positions": 9, "same_ids": 2, "top1": 1.0, "kl": 0.0, "same_answers": 1.0}
    record = {"format": format, "options": {}, "proven": True, "evaluated": True, "main": main, "written": "2026"}
    record |= {"run": f"one/{run.name}", "engine": "transformers", "misses": [], "parity": parity}
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


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda adapter: {"peft_type": "IA3", "target_modules": ["q_proj"]}, "an adapter by IA3"),
        (lambda adapter: adapter.update(rank_pattern={"q_proj": 64}), "different ranks"),
        (lambda adapter: adapter.update(alpha_pattern={"q_proj": 64}), "different factors"),
    ],
)
def test_an_adapter_of_another_kind_is_merged_first(ftp, run, change, what):
    changed(run, "model/adapter_config.json", change)
    outcome = ftp("serve", str(run), "--engine", "vllm", "--print")
    assert outcome.code == 2 and what in outcome.err and f"First: ftp export {run} merged" in outcome.err


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


def changed(run, name, change):
    file = run / name
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("run.lock.json", lambda lock: lock["recipe"]["model"].update(id=["a"]), "recipe.model.id is no text"),
        ("run.lock.json", lambda lock: lock["recipe"].update(model="x"), "isn't in Hugging Face's layout"),
        ("model/adapter_config.json", lambda adapter: adapter.update(r="x"), "r is not a rank"),
        ("model/adapter_config.json", lambda adapter: adapter.update(r=None), "r is not a rank"),
        ("model/adapter_config.json", lambda adapter: [1], "damaged"),
        ("model/adapter_config.json", lambda adapter: 5, "damaged"),
    ],
)
def test_damaged_runs_end_in_a_message(ftp, run, engine, name, change, what):
    changed(run, name, change)
    result = ftp("serve", str(run), "--engine", engine, "--print")
    assert result.code == 2 and what in result.err, result.err


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"{}", "damaged; export it again"),
        (b"[" * 100_000, "damaged; export it again"),
        (b"\xff", "damaged; export it again"),
        (None, "can't be read"),
    ],
)
def test_damaged_exports_end_in_a_message(ftp, run, content, what):
    place = run / "exports" / "gguf"
    place.mkdir(parents=True)
    if content is None:
        os.mkfifo(run / "pipe")
        (place / "export.json").symlink_to(run / "pipe")
    else:
        (place / "export.json").write_bytes(content)
    result = ftp("serve", str(run), "--engine", "llama.cpp", "--print")
    assert result.code == 2 and what in result.err, result.err


def test_the_file_of_an_export_is_in_it(ftp, run):
    add_export(run, "gguf", "../../../secret.gguf")
    result = ftp("serve", str(run), "--engine", "llama.cpp", "--print")
    assert result.code == 2 and "leads out of the export" in result.err


def test_names_of_a_strangers_run_begin_no_command(ftp, run):
    changed(run, "run.lock.json", lambda lock: lock["model"].update(name="m\ntouch owned #\x1b[31m"))
    result = ftp("serve", f"a\ntouch owned\r={run}", "--engine", "sglang", "--print", "--host", "h; touch owned")
    assert result.code == 0 and "\x1b" not in result.out, result.err
    comment, command = result.out.split("\n", 1)
    assert comment.startswith("# Ask for the model ") and command.startswith("python -m sglang.launch_server ")
    assert "touch" not in "".join(part for at, part in enumerate(command.split("'")) if at % 2 == 0), "all is quoted"
