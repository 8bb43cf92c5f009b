"""What a run made elsewhere may do on this machine, and what it may not."""

import json
import shutil

import click
import pytest
import yaml
from click.testing import CliRunner
from mutator import outcome

from ftp.cli.consent import ask_for_run
from ftp.errors import FtpError
from ftp.files import file_digest
from ftp.provenance import trust
from ftp.runs.directory import RunDirectory
from ftp.testing.fixtures import write_tiny_model

MINE = """
import ftp, os, pathlib
pathlib.Path(os.environ["SAW"]).touch()
class Mine(ftp.Evaluator):
    def score(self, example, answer):
        return 1.0
@ftp.hookimpl
def ftp_evaluators():
    return {"mine": Mine}
"""
JUDGE = {"use": "judge", "model": "m", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Begin a run that fails at its rehearsal, as nobody listens where its judge should be; its directory."""
    place = tmp_path_factory.mktemp("made")
    write_tiny_model(place / "model")
    (place / "mine.py").write_text(MINE)
    for name, numbers in (("train", range(2, 14)), ("heldout", range(14, 18))):
        rows = [{"instruction": f"Double {n}.", "context": "", "response": f"It is {2 * n}."} for n in numbers]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "small",
        "model": {"use": "huggingface", "id": "./model", "device": "cpu"},
        "adapter": {"use": "lora", "r": 4},
        "data": {"train": [source("train")], "validation": "25%", "evals": {"heldout": source("heldout")}},
        "train": {"use": "sft", "epochs": 1, "batch_size": 4},
        "answers": {"max_new_tokens": 4},
        "evaluate": [{"use": "mine"}, JUDGE],
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings(place).items():
            patch.setenv(name, str(value))
        how, said = outcome(["run", "recipe.yaml", "-p", "mine.py"], place, seconds=120)
    assert how == "code 2" and "can't be reached" in said, said
    [run] = (place / "runs" / "small").iterdir()
    return run


def source(name):
    return {"path": f"{name}.jsonl", "format": {"use": "instruct"}}


def surroundings(place):
    return {"FTP_CACHE": place / "cache", "FTP_USER_DATA": place / "user", "SAW": place / "saw"}


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of the run, and the surroundings that it was made in."""
    for name, value in surroundings(made.parents[2]).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("SAW", str(tmp_path / "saw"))
    return shutil.copytree(made, tmp_path / "runs" / "small" / made.name)


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """Another user, whose key is another."""
    monkeypatch.setenv("FTP_USER_DATA", str(tmp_path / "other-user"))


def do(run, *arguments):
    how, said = outcome([*map(str, arguments)], run.parent, seconds=120)
    assert how == "code 2", said
    return said


def test_a_run_of_this_machine_goes_on_unattended(run, tmp_path):
    said = do(run, "resume", run)
    assert "can't be reached" in said and "--trust" not in said  # as far as it can
    assert (tmp_path / "saw").exists()


def test_a_run_from_elsewhere_names_what_it_would_do(run, stranger, made, tmp_path):
    refused, plugin = do(run, "resume", run), made.parents[2] / "mine.py"
    assert not (tmp_path / "saw").exists()
    assert f"run the Python file {plugin} (SHA-256 {file_digest(plugin)})" in refused
    named = do(run, "resume", run, "-p", plugin)  # the file is named, the judge's address is not
    assert "judge: send prompts and answers to http://127.0.0.1:9/v1" in named and "$OPENAI_API_KEY" in named
    trusted = do(run, "resume", run, "--trust")
    assert "can't be reached" in trusted
    assert "can't be reached" in do(run, "resume", run), "consent is kept"


@pytest.mark.parametrize("what", ["plugin", "address", "variable", "consent"])
def test_a_run_of_this_machine_that_was_changed_asks_again(run, made, tmp_path, what):
    if what == "plugin":
        (tmp_path / "mine.py").write_text(MINE + "# and more\n")
        origin = json.loads((run / "origin.json").read_text())
        (run / "origin.json").write_text(json.dumps({**origin, "plugins": [str(tmp_path / "mine.py")]}))
    elif what == "consent":
        consent = json.loads((run / "consent.json").read_text())
        (run / "consent.json").write_text(json.dumps({**consent, "hmac": "0" * 64}))
    else:
        resolved, old = run / "resolved.yaml", {"address": "127.0.0.1:9", "variable": "OPENAI_API_KEY"}[what]
        resolved.write_text(resolved.read_text().replace(old, {"address": "127.0.0.1:8", "variable": "AWS"}[what]))
    refused = do(run, "resume", run)
    assert "was changed since" in refused and "--trust" in refused
    assert not (tmp_path / "saw").exists()


def test_eval_asks_before_a_strangers_judge_hears_of_anything(run, stranger, made):
    refused = do(run, "eval", run, "-p", made.parents[2] / "mine.py")
    assert "send prompts and answers to http://127.0.0.1:9/v1" in refused
    assert not (run / "evals").exists()


def test_model_code_of_a_strangers_run_needs_consent(run, made):
    resolved = run / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    assert "run the code that comes with the model" in do(run, "eval", run, "-p", made.parents[2] / "mine.py")


@pytest.mark.parametrize("command", [["export", "merged"], ["chat"], ["serve", "--port", "0"]], ids=lambda c: c[0])
def test_model_code_of_a_strangers_run_needs_consent_on_the_way_out(lora_runs, tmp_path, command):
    run = shutil.copytree(lora_runs.one, tmp_path / "runs" / "one" / "1")
    resolved = run / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    how, said = outcome([command[0], str(run), *command[1:]], tmp_path, seconds=60)
    assert how == "code 2" and "run the code that comes with the model" in said and "--trust" in said, said
    assert not (run / "exports").exists()


@pytest.mark.parametrize(("answer", "is_refused"), [("y\n", False), ("n\n", True), ("", True)])
def test_the_question_on_a_terminal_names_what_would_happen(run, stranger, monkeypatch, answer, is_refused):
    @click.command()
    def ask():
        for stream in ("stdin", "stderr"):
            monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
        ask_for_run(RunDirectory(run), ["judge: send prompts to http://evil.example\x1b[2J"], False)

    found = CliRunner().invoke(ask, input=answer)
    assert "- judge: send prompts to http://evil.example\\u001b[2J" in found.output and "Allow that?" in found.output
    assert isinstance(found.exception, FtpError | SystemExit) == is_refused


def test_an_unusual_variable_needs_consent_in_a_recipe_too(ftp, ftp_recipe, ftp_tiny_model, monkeypatch):
    monkeypatch.setenv("AWS_SECRET", "secret-value")
    recipe = ftp_recipe(model={"id": str(ftp_tiny_model)}, evaluate=[{**JUDGE, "api_key_env": "AWS_SECRET"}])
    refused = ftp("run", str(recipe))
    assert refused.code == 2 and "$AWS_SECRET" in refused.err and "--trust" in refused.err
    assert "secret-value" not in refused.err


def test_the_key_is_the_users_alone(run, made, tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_USER_DATA", str(tmp_path / "user"))
    shutil.copytree(made.parents[2] / "user", tmp_path / "user")
    key, may = tmp_path / "user" / "run.key", json.loads((run / "consent.json").read_text())["may"]
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    assert key.read_bytes().hex() not in (run / "consent.json").read_text()
    assert may and trust.missing(RunDirectory(run), may) == []  # moved on this machine
    key.unlink()
    assert trust.missing(RunDirectory(run), may) == may
