"""How to serve runs with another server: the command, and the exports that it needs first.

The commands follow the options of vLLM 0.33 (`vllm serve`), SGLang (`sglang.launch_server`), llama.cpp (`llama-server`)
and Ollama (`ollama create`). None of these can live in FTP's environment, so the tests start none of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftp.errors import RunError
from ftp.provenance.lock import LOCK, lock_of
from ftp.records.exports import read_exports
from ftp.runs.directory import RunDirectory
from ftp_plugins.commands.serve.names import split_name, unique_names

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


@dataclass(frozen=True)
class Trained:
    """A run as far as another server needs to know it."""

    name: str
    path: Path
    lock: dict[str, Any]
    base: str
    """The base model as another program loads it: a hub id or a directory; empty where there is none."""
    adapter: dict[str, Any]
    """Its adapter_config.json; empty for a model that is trained as a whole."""

    def why_not_as_adapter(self) -> str:
        """Return why vLLM and SGLang can't put this adapter on its base model; empty if they can."""
        if self.lock["model"].get("quantization"):
            return "it was trained on a quantised base model, which the server would quantise in its own way"
        if not self.base:
            return "its base model isn't in Hugging Face's layout"
        if (method := self.adapter.get("peft_type") or "LORA") != "LORA":
            return f"it is an adapter by {method}, which the server can't load as an adapter"
        for key, what in (
            ("use_dora", "it is a DoRA adapter"),
            ("modules_to_save", "it trained whole modules"),
            ("trainable_token_indices", "it has new tokens"),
            ("target_parameters", "it has adapters on experts"),
            ("rank_pattern", "its layers have different ranks"),
            ("alpha_pattern", "its layers have different factors"),
        ):
            if self.adapter.get(key):
                return f"{what}, which the server can't load as an adapter"
        return "" if self.adapter["r"] <= RANKS[-1] else f"its rank is above {RANKS[-1]}"


def instructions(engine: str, runs: Sequence[str], host: str, port: int) -> str:
    """Return the commands to serve runs with another server, as lines of a shell script.

    Raises:
        RunError: one is not a finished run, the server needs an export that isn't there yet (the message says how to
            make it), or one server can't serve these runs together.
    """
    named = [split_name(run) for run in runs]
    opened = [_read(path) for _, path in named]
    names = unique_names(
        [(name, run.path.parent.name, run.path.name) for (name, _), run in zip(named, opened, strict=True)]
    )
    trained = [
        Trained(name, run.path, run.lock, run.base, run.adapter) for name, run in zip(names, opened, strict=True)
    ]
    if engine in ("llama.cpp", "ollama") and len(trained) > 1:
        raise RunError(f"{engine} serves one model at a time; name one run")
    if engine == "ollama":
        return _ollama(trained[0], host, port)
    if engine == "llama.cpp":
        return _llama_cpp(trained[0], host, port)
    return _gpu_server(engine, trained, host, port)


def _read(path: Path) -> Trained:
    directory = RunDirectory(path.absolute())
    lock = lock_of(directory)
    if "train" not in directory.stages() or "model" not in lock:
        raise RunError(f"{path}: no trained model in it; `ftp resume {path}` goes on with it")
    model = lock.get("recipe", {}).get("model")
    base = model.get("id", "") if isinstance(model, dict) else ""
    file = "model/adapter_config.json"
    adapter = directory.read_json(file, dict[str, Any]) or {}
    is_lora = bool(adapter) and (adapter.get("peft_type") or "LORA") == "LORA"
    if is_lora and not (isinstance(adapter.get("r"), int) and adapter["r"] > 0):
        raise RunError(f"{directory.path / file}: damaged: r is not a rank")
    if not isinstance(base, str):
        raise RunError(f"{directory.path / LOCK}: damaged: recipe.model.id is no text")
    return Trained("", directory.path, lock, base, adapter)


def _gpu_server(engine: str, runs: Sequence[Trained], host: str, port: int) -> str:
    """Return the command for vLLM or SGLang: the base model with adapters, or one whole model."""
    reasons = [run.why_not_as_adapter() if run.adapter else "it is a whole model" for run in runs]
    if not any(reasons):
        return _with_adapters(engine, runs, host, port)
    if len(runs) > 1:
        at, reason = next((at, reason) for at, reason in enumerate(reasons) if reason)
        raise RunError(f"{runs[at].path}: {reason}, so it needs a server of its own; name one run at a time")
    [run] = runs
    place = run.path / "model"
    if run.adapter:
        place = _export(run, "merged", reasons[0])
    return _command(engine, run, str(place), ["--served-model-name", run.name], host, port)


def _with_adapters(engine: str, runs: Sequence[Trained], host: str, port: int) -> str:
    first = runs[0]
    for run in runs[1:]:
        for key, what in (
            ("fingerprint", "base models"),
            ("dtype", "types of weights"),
            ("tokenizer", "tokenizers"),
            ("chat_template", "chat templates"),
        ):
            if run.lock["model"].get(key) != first.lock["model"].get(key):
                raise RunError(f"{first.path} and {run.path} have different {what}; serve them one by one")
    adapters = [f"{run.name}={run.path / 'model'}" for run in runs]
    rank = max(int(run.adapter["r"]) for run in runs)
    if engine == "vllm":
        allowed = next(each for each in RANKS if each >= rank)
        options = ["--enable-lora", "--lora-modules", *adapters, "--max-lora-rank", str(allowed)]
        options += ["--max-loras", str(len(runs)), "--served-model-name", first.lock["model"]["name"]]
    else:
        options = ["--enable-lora", "--lora-paths", *adapters, "--max-loras-per-batch", str(len(runs) + 1)]
        options += ["--served-model-name", first.lock["model"]["name"]]
    return _command(engine, first, first.base, [*options, *_tokenizer(engine, first)], host, port)


def _tokenizer(engine: str, run: Trained) -> list[str]:
    """Return the option for the run's own tokenizer and chat template."""
    return ["--tokenizer" if engine == "vllm" else "--tokenizer-path", str(run.path / "model")]


def _command(engine: str, run: Trained, model: str, options: Sequence[str], host: str, port: int) -> str:
    """Return the command with the settings under which the run was evaluated: its type of weights, greedy decoding."""
    place = ["--host", host, "--port", str(port), "--dtype", run.lock["model"]["dtype"]]
    if engine == "vllm":
        command = ["vllm", "serve", model, *options, "--generation-config", "vllm", *place]
    else:
        command = ["python", "-m", "sglang.launch_server", "--model-path", model, *options, *place]
    return "\n".join([f"# {_how_to_ask(engine, run, options)}", shlex.join(command)])


def _how_to_ask(engine: str, run: Trained, options: Sequence[str]) -> str:
    name = run.name
    if engine == "sglang" and "--lora-paths" in options:
        name = f"{run.lock['model']['name']}:{name}"  # as SGLang calls an adapter on its base model
    # On one line: a line break in a name would end the comment and begin a command.
    return f"Ask for the model {' '.join(name.split())} with temperature 0, as the run was evaluated."


def _llama_cpp(run: Trained, host: str, port: int) -> str:
    place = _export(run, "gguf", "llama.cpp reads GGUF files")
    file = place / _main(run, place)
    command = [
        "llama-server",
        "--model",
        str(file),
        "--alias",
        run.name,
        "--jinja",
        "--host",
        host,
        "--port",
        str(port),
    ]
    return "\n".join([f"# {_how_to_ask('llama.cpp', run, command)}", shlex.join(command)])


def _ollama(run: Trained, host: str, port: int) -> str:
    place = _export(run, "ollama", "Ollama reads a Modelfile and a GGUF file")
    name = run.name.lower()
    host = shlex.quote(f"{host}:{port}")
    lines = [
        f"OLLAMA_HOST={host} ollama serve &",
        f"until OLLAMA_HOST={host} ollama list > /dev/null 2>&1; do sleep 1; done",
        f"OLLAMA_HOST={host} {shlex.join(['ollama', 'create', name, '-f', str(place / 'Modelfile')])}",
        f"OLLAMA_HOST={host} {shlex.join(['ollama', 'run', name])}",
    ]
    return "\n".join(lines)


def _export(run: Trained, format: str, why: str) -> Path:
    """Return the directory of a run's newest proven export in a format.

    Raises:
        RunError: there is none.
    """
    whole = [r for r in read_exports(run.path) if r["format"] == format and r["options"].get("content") != "adapter"]
    good = [record for record in whole if record["proven"] and record["evaluated"]]
    if not good:
        reason = "unproven" if whole and not whole[0]["proven"] else "not the model that was evaluated"
        there = f"; {whole[0]['directory']} is {reason}" if whole else ""
        raise RunError(f"{run.path}: {why}. First: ftp export {shlex.quote(str(run.path))} {format}{there}")
    return run.path / str(max(good, key=lambda record: str(record["written"]))["directory"])


def _main(run: Trained, place: Path) -> str:
    """Return the name of an export's main file."""
    [record] = [record for record in read_exports(run.path) if run.path / record["directory"] == place]
    return str(record["main"])
