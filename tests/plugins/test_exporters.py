"""Exports of real runs on a tiny model: what is written, what is proven, and what is refused."""

import hashlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from ftp.cli import cli
from ftp.errors import FtpError
from ftp.testing.hub import TOKEN

ROWS = [{"instruction": f"Double {n}.", "context": "", "response": f"{n} doubled is {2 * n}."} for n in range(2, 18)]
SOURCE = {"format": {"use": "instruct"}}


def ftp(*arguments):
    """Run the command: exit code and what it said."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, FtpError):
        return result.exception.exit_code, f"{result.output}{result.exception}"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def write_recipe(place, model, dtype="auto", **blocks):
    place.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", ROWS[:12]), ("heldout", ROWS[12:])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    recipe = {
        "name": "small",
        "model": {"use": "huggingface", "id": str(model), "device": "cpu", "dtype": dtype},
        "adapter": {"use": "lora", "r": 4},
        "data": {
            "train": [{"path": "train.jsonl", **SOURCE}],
            "validation": "25%",
            "evals": {"heldout": {"path": "heldout.jsonl", **SOURCE}},
        },
        "train": {"use": "sft", "epochs": 2, "batch_size": 4, "learning_rate": 1e-2},
        "answers": {"max_new_tokens": 8},
        "evaluate": [{"use": "loss"}, {"use": "exact_match"}],
    }
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe, **blocks}, sort_keys=False))
    return file


def run(place, model, **blocks):
    """Do a run; its directory."""
    code, said = ftp("run", write_recipe(place, model, **blocks), "--runs", place / "runs")
    assert code == 0, said
    [directory] = (place / "runs" / "small").iterdir()
    return directory


@pytest.fixture(scope="module")
def trained(ftp_tiny_model, tmp_path_factory):
    """The directory of a run with an adapter, made once for each."""
    made = {}

    def directory(adapter, dtype="auto"):
        if (adapter, dtype) not in made:
            block = {"use": adapter} if adapter == "full" else {"use": adapter, "r": 4}
            made[adapter, dtype] = run(tmp_path_factory.mktemp(adapter), ftp_tiny_model, adapter=block, dtype=dtype)
        return made[adapter, dtype]

    return directory


@pytest.fixture
def lora(trained, tmp_path):
    """A copy of a run that a test may change."""
    place = tmp_path / "runs" / "small" / "20260101-120000-abcd"
    return Path(shutil.copytree(trained("lora"), place, ignore=shutil.ignore_patterns("exports")))


def record(directory):
    return json.loads((directory / "export.json").read_text())


# --- what is proven --------------------------------------------------------------------------------------------------


@pytest.mark.thin(3)
@pytest.mark.parametrize("adapter", ["lora", "qlora", "full"])
def test_merged_files_are_the_model_of_the_run(trained, adapter):
    code, said = ftp("export", trained(adapter), "merged")
    assert code == 0, said
    found = record(trained(adapter) / "exports" / "merged")
    assert found["proven"] and found["evaluated"] and found["misses"] == []
    parity = found["parity"]
    assert parity["same_ids"] == parity["prompts"] == 7, "4 eval rows and 3 to validate on"
    assert parity["kl"] < 1e-4 and parity["top1"] > 0.97 and parity["positions"] > 100
    assert set(found["files"]) >= {"model.safetensors", "tokenizer.json", "config.json"}


def test_the_adapter_is_the_model_of_the_run_and_names_its_base(lora, ftp_tiny_model):
    code, said = ftp("export", lora, "adapter")
    assert code == 0 and "--set base_model=ORG/NAME" in said
    found = record(lora / "exports" / "adapter")
    assert found["parity"]["kl"] == 0 and found["parity"]["same_answers"] == 1
    config = json.loads((lora / "exports" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(ftp_tiny_model)
    assert ftp("export", lora, "adapter", "--set", "base_model=org/tiny")[0] == 0
    config = json.loads((lora / "exports" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/tiny"


def test_the_comparison_is_in_the_cards_and_in_the_report(lora):
    assert ftp("export", lora, "merged")[0] == 0
    digest = record(lora / "exports" / "merged")["files"]["model.safetensors"]
    assert digest in (lora / "exports" / "merged" / "README.md").read_text()
    for card in (lora / "README.md", lora / "model" / "README.md"):
        assert "| merged | exports/merged | proven | 7 of 7 |" in card.read_text()
    assert "exports/merged" in (lora / "report.html").read_text()


def test_an_export_out_of_bounds_is_kept_and_named_unproven(lora):
    code, said = ftp("export", lora, "merged", "--set", "dtype=float16", "--set", "proof.kl=0")
    assert code == 4 and "not proven to be the model of the run: KL" in said
    assert not (lora / "exports" / "merged").exists()
    unproven = lora / "exports" / "merged-unproven"
    assert (unproven / "model.safetensors").is_file() and not record(unproven)["proven"]
    assert "**Unproven**" in (unproven / "README.md").read_text()
    assert "| unproven |" in (lora / "README.md").read_text()
    assert ftp("export", lora, "merged")[0] == 0
    assert not unproven.exists(), "the proven one takes its place"


@pytest.mark.thin(3)
@pytest.mark.parametrize("adapter", ["lora", "qlora", "full"])
def test_three_lines_of_the_model_card_load_the_run(trained, adapter, monkeypatch):
    directory = trained(adapter)
    code = (directory / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(directory)
    names = {}
    exec(code, names)
    from ftp import plugins, recipe
    from ftp.runs.directory import RunDirectory
    from ftp.stages.load_trained import load_trained

    loaded = load_trained(recipe.read(directory / "resolved.yaml", plugins.load()), RunDirectory(directory))
    ids = loaded.tokenizer("Double 14.", return_tensors="pt")["input_ids"]
    logits, again = (model.eval()(ids).logits.float() for model in (loaded.model, names["model"]))
    assert names["tokenizer"]("Double 14.", return_tensors="pt")["input_ids"].equal(ids)
    assert logits[0, -1].argmax() == again[0, -1].argmax()
    assert logits.abs().mean().item() == pytest.approx(again.abs().mean().item(), rel=1e-2)


@pytest.mark.parametrize(("kind", "bits"), [("F16", 16), ("Q8_0", 8)])
def test_a_gguf_file_is_the_model_of_the_run(lora, kind, bits):
    code, said = ftp("export", lora, "gguf", "--set", f"type={kind}")
    assert code == 0, said
    found = record(lora / "exports" / "gguf")
    file = lora / "exports" / "gguf" / f"small-{kind}.gguf"
    assert found["main"] == file.name and hashlib.sha256(file.read_bytes()).hexdigest() == found["files"][file.name]
    assert found["parity"]["same_ids"] == 7 and found["parity"]["kl"] < 0.001
    assert found["bounds"]["kl"] == (0.002 if kind == "F16" else 0.05)
    assert "llama-server -m PATH/small" in (lora / "exports" / "gguf" / "README.md").read_text()


def test_a_gguf_file_of_a_qlora_run_is_the_model_of_the_run(trained):
    code, said = ftp("export", trained("qlora"), "gguf", "--set", "type=F32")
    assert code == 0, said
    assert record(trained("qlora") / "exports" / "gguf")["parity"]["kl"] < 1e-4


def test_an_unproven_file_says_so_in_its_name(lora):
    code, _ = ftp("export", lora, "gguf", "--set", "type=Q4_0", "--set", "proof.kl=0")
    assert code == 4
    assert (lora / "exports" / "gguf-unproven" / "small-Q4_0-unproven.gguf").is_file()


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_an_adapter_as_gguf_is_the_adapter_of_the_run(trained, adapter):
    options = ["--set", "content=adapter", "--set", "type=F32", "--set", "folder=gguf-adapter"]
    code, said = ftp("export", trained(adapter), "gguf", *options)
    assert code == 0, said
    found = record(trained(adapter) / "exports" / "gguf-adapter")
    assert found["parity"]["kl"] < 1e-5 and found["main"] == "small-adapter-F32.gguf"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("adapter", ["lora", "qlora"])
@pytest.mark.parametrize("content", ["model", "adapter"])
def test_llama_cpp_answers_as_the_run_in_transformers(trained, adapter, content, tmp_path, capfd):
    same = 1 if adapter == "lora" else 0.5  # 4-bit layers multiply in another order, and a tiny model is often torn
    options = {"type": "F32", "content": content, "opened_with": "llama.cpp"}
    options |= {"proof.same_answers": same, "proof.kl": 1e-4, "proof.top1": 0.98}
    settings = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    code, said = ftp("export", trained(adapter, "float32"), "gguf", *settings, "-o", tmp_path / "export")
    assert code == 0, said
    found = record(tmp_path / "export")
    assert found["engine"].startswith("llama.cpp") and found["parity"]["same_ids"] == 7
    assert set(found["files"]) == {found["main"]}, "the base model for the comparison is gone"
    assert "llama" not in capfd.readouterr().err.replace(str(tmp_path), ""), "llama.cpp is kept quiet"


def test_ollama_gets_template_stops_and_parameters(lora, ftp_tiny_model):
    code, said = ftp("export", lora, "ollama", "--set", "type=Q8_0")
    assert code == 0, said
    lines = (lora / "exports" / "ollama" / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./small-Q8_0.gguf"
    assert lines[2:] == [
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {json.loads((ftp_tiny_model / 'config.json').read_text())['max_position_embeddings']}",
        "PARAMETER num_predict 8",
    ]
    user = '{{ else if eq .Role "user" }}{{ "<|im_start|>user\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}'
    assert user in lines[1] and lines[1].endswith('{{ "<|im_start|>assistant\\n" }}"""')
    assert "<|bos|>" not in lines[1], "llama.cpp adds it by itself, as the tokenizer does"
    assert record(lora / "exports" / "ollama")["parity"]["same_ids"] == 7


def test_the_system_turn_of_the_eval_prompts_is_that_of_the_modelfile(lora):
    from ftp import Example, Message
    from ftp_plugins.exporters.ollama import joined, system_of

    def asked(*turns):
        return Example((*[Message(role, text) for role, text in turns], Message("assistant", "4")))

    brief, question = ("system", "Be brief.\nDouble."), ("user", "2?")
    assert system_of([asked(brief, question)] * 2) == "Be brief.\nDouble."
    assert system_of([asked(brief, question), asked(question)]) == system_of([]) == ""
    assert system_of([asked(("system", 'Say """.'), question)]) == "", "a Modelfile has no escapes"
    turns = joined([Message(*turn) for turn in (brief, question, ("user", "3?"), ("tool", "1"), ("tool", "2"))])
    assert [turn.content for turn in turns] == ["Be brief.\nDouble.", "2?\n\n3?", "1", "2"], "as Ollama hands them on"


# --- QLoRA, three ways -----------------------------------------------------------------------------------------------


def test_a_merge_into_the_original_base_is_marked_as_not_evaluated(trained):
    directory = trained("qlora")
    code, said = ftp("export", directory, "merged", "--set", "base=original", "--set", "folder=original")
    assert code == 0, said
    found = record(directory / "exports" / "original")
    assert found["proven"] and not found["evaluated"], found
    assert found["against_evaluated"]["kl"] > 10 * found["parity"]["kl"]
    assert "**Not the model that was evaluated**" in (directory / "exports" / "original" / "README.md").read_text()


def test_a_merge_into_4_bits_is_refused_with_the_reason(trained):
    code, said = ftp("export", trained("qlora"), "merged", "--set", "base=4bit")
    assert code == 2 and "round the training away" in said


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mergd"], "no format 'mergd'; did you mean 'merged'?"),
        (["merged", "--set", "dtyp=float16"], "merged: dtyp: "),
        (["merged", "--set", "dtype"], "say OPTION=VALUE"),
        (["merged", "adapter", "--set", "dtype=float16"], "for one format"),
        (["gguf", "--set", "type=Q3"], "gguf: type: "),
        (["gguf", "--set", "type=Q8_0", "--set", "content=adapter"], "an adapter is stored as F32, F16 or BF16"),
        (["hub", "--set", "repo=me", "--set", "format.use=merged"], "hub: repo: "),
        (["hub", "--set", "format.use=merged"], "hub: repo: "),
    ],
)
def test_what_a_command_line_can_get_wrong(lora, arguments, message):
    code, said = ftp("export", lora, *arguments)
    assert code == 2 and message in said
    assert not (lora / "exports").exists()


def test_the_hub_asks_for_a_token_before_anything_is_written(lora, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, said = ftp("export", lora, "hub", "--set", "repo=me/small", "--set", "format.use=merged")
    assert code == 2 and "export: hub: " in said and not (lora / "exports").exists()


def test_full_training_has_no_adapter_to_export(trained):
    code, said = ftp("export", trained("full"), "adapter")
    assert code == 2 and "full training leaves no adapter" in said


def test_a_run_that_is_not_finished_is_refused(lora):
    (lora / "evaluation.json").unlink()
    code, said = ftp("export", lora, "merged")
    assert code == 2 and "the run is not finished" in said


def test_no_room_is_said_before_anything_is_written(lora, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    code, said = ftp("export", lora, "merged")
    assert code == 2 and "make room" in said and not (lora / "exports").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["merged", "gguf"])
def test_a_disk_that_fills_up_is_said_and_what_was_written_is_removed(lora, kind):
    """Even where there seemed to be room: here, a file may have no more than 100 kB."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "ftp", "export", str(lora), kind]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=limited)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the disk is full, or a limit on the size of files is reached; make room" in done.stderr
    assert list((lora / "exports").iterdir()) == []


def test_an_export_goes_where_it_is_told_and_replaces_nothing_else(lora, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "letters.txt").write_text("mine")
    code, said = ftp("export", lora, "merged", "-o", own)
    assert code == 2 and "is there already and no export" in said and (own / "letters.txt").read_text() == "mine"
    for _ in range(2):
        assert ftp("export", lora, "merged", "-o", tmp_path / "new")[0] == 0
        assert record(tmp_path / "new")["proven"] and not (lora / "exports").exists()


@pytest.mark.slow
def test_half_an_export_is_done_again(lora):
    command = [sys.executable, "-m", "ftp", "export", str(lora), "merged"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.startswith("Comparing"):  # written, and not yet proven
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in (lora / "exports").iterdir()] == ["merged.part"]
    assert ftp("report", lora)[0] == 0, "half an export is none"
    assert ftp("export", lora, "merged")[0] == 0
    assert [path.name for path in (lora / "exports").iterdir()] == ["merged"]
    found = record(lora / "exports" / "merged")
    for name, digest in found["files"].items():
        assert hashlib.sha256((lora / "exports" / "merged" / name).read_bytes()).hexdigest() == digest, name
    assert found["proven"]


# --- the hub ---------------------------------------------------------------------------------------------------------

UPLOAD = ("--set", "repo=acme/small", "--set", "format.use=merged")
REPOSITORY = "models/acme/small"


# huggingface_hub hands httpx a body in a way that httpx warns of.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_an_export_is_uploaded_into_a_private_repository_with_its_card(lora, ftp_hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, said = ftp("export", lora, "hub", *UPLOAD)
    assert code == 0, said
    repository = ftp_hub.repositories[REPOSITORY]
    assert repository.private
    files = repository.commits[repository.at("main")]
    written = lora / "exports" / "hub"
    assert files["model.safetensors"] == (written / "model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert f"Written by FTP from run small/{lora.name}" in card and "Unproven" not in card
    assert json.loads(files["export.json"])["proven"]
    uploaded = json.loads((written / "hub.json").read_text())
    assert uploaded["repo"] == "acme/small" and uploaded["commit"] == repository.at("main")
    assert uploaded["url"] in said
    everything = [*files.values(), *(file.read_bytes() for file in lora.rglob("*") if file.is_file())]
    assert TOKEN not in said and not any(TOKEN.encode() in content for content in everything)


# huggingface_hub hands httpx a body in a way that httpx warns of.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_an_upload_that_breaks_off_leaves_the_export_and_can_be_repeated(lora, ftp_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    ftp_hub.refused_uploads = 1
    code, said = ftp("export", lora, "hub", *UPLOAD, "--set", "private=false")
    assert code == 2 and "acme/small: can't be uploaded" in said and TOKEN not in said
    repository = ftp_hub.repositories[REPOSITORY]
    assert list(repository.commits[repository.at("main")]) == [".gitattributes"]
    assert record(lora / "exports" / "hub")["proven"] and not (lora / "exports" / "hub" / "hub.json").exists()
    assert not repository.private
    code, said = ftp("export", lora, "hub", *UPLOAD)
    assert code == 0, said
    assert "model.safetensors" in repository.commits[repository.at("main")]


def test_an_unproven_export_is_not_uploaded(lora, ftp_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, said = ftp("export", lora, "hub", *UPLOAD, "--set", "format.dtype=float16", "--set", "proof.kl=0")
    assert code == 4 and "isn't uploaded" in said and REPOSITORY not in ftp_hub.repositories


def test_a_token_that_the_hub_refuses_is_said_before_anything_is_written(lora, ftp_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    code, said = ftp("export", lora, "hub", *UPLOAD)
    assert code == 2 and "the hub doesn't let you in" in said
    assert "hf_wrong_secret" not in said and not (lora / "exports").exists()
    assert REPOSITORY not in ftp_hub.repositories


# --- in a recipe -----------------------------------------------------------------------------------------------------


def test_a_recipe_exports_at_the_end_of_its_run(ftp_tiny_model, tmp_path):
    directory = run(tmp_path, ftp_tiny_model, export=[{"use": "merged", "dtype": "bfloat16"}, {"use": "adapter"}])
    assert {path.name for path in (directory / "exports").iterdir()} == {"merged", "adapter"}
    assert "| merged | exports/merged | proven |" in (directory / "README.md").read_text()
    stages = json.loads((directory / "stages.json").read_text())
    assert list(stages)[-3:] == ["export merged", "export adapter", "report"]


def test_an_unproven_export_ends_a_run_with_exit_code_4_and_its_reports(ftp_tiny_model, tmp_path):
    export = [{"use": "merged", "dtype": "float16", "proof": {"kl": 0.0}}]
    recipe = write_recipe(tmp_path, ftp_tiny_model, export=export)
    code, said = ftp("run", recipe, "--runs", tmp_path / "runs")
    assert code == 4 and "not proven" in said
    [report] = (tmp_path / "runs").glob("small/*/report.html")
    assert "unproven" in report.read_text()


def test_an_export_that_cant_be_is_refused_before_training(ftp_tiny_model, tmp_path):
    recipe = write_recipe(tmp_path, ftp_tiny_model, adapter={"use": "full"}, export=[{"use": "adapter"}])
    code, said = ftp("run", recipe, "--runs", tmp_path / "runs")
    assert code == 2 and "export.0: 'full' leaves no adapter" in said
    assert not (tmp_path / "runs").exists()


def test_an_export_that_the_model_doesnt_allow_is_refused_before_training(ftp_tiny_model, tmp_path):
    model = Path(shutil.copytree(ftp_tiny_model, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    recipe = write_recipe(tmp_path, model, export=[{"use": "gguf"}])
    code, said = ftp("run", recipe, "--runs", tmp_path / "runs")
    assert code == 2 and "export: gguf: can't be written as GGUF: llama.cpp computes silu" in said
    [directory] = (tmp_path / "runs" / "small").iterdir()
    assert list(json.loads((directory / "stages.json").read_text())) == ["data"]


def test_two_exports_into_one_directory_are_refused(ftp_tiny_model, tmp_path):
    recipe = write_recipe(tmp_path, ftp_tiny_model, export=[{"use": "merged"}, {"use": "merged", "dtype": "float16"}])
    code, said = ftp("check", recipe)
    assert code == 2 and "export.1: writes into exports/merged as export.0 does" in said
