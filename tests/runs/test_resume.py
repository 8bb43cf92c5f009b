"""Real `ftp run` and `ftp resume` processes that are killed, stopped and starved, and go on."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftp.cli import cli
from ftp.errors import FtpError
from ftp.runs.directory import RunDirectory
from ftp.runs.events import done_until

LONG = {"epochs": 25.3, "batch_size": 4, "gradient_accumulation": 2, "evals_per_epoch": 0.6, "learning_rate": 1e-3}
"""Five steps an epoch, the last one of half a batch; 127 steps; a validation and a checkpoint every eight."""

PARENT = """
import gc, json, os, resource, sys
import accelerate, datasets, peft, pyarrow, torch, transformers, trl
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from ftp.cli import main
import ftp_plugins.trainers.torch_sft
gc.collect()
gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        if order["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
        os.chdir(order["directory"])
        sys.argv = ["ftp", *order["arguments"]]
        try:
            main()
        except SystemExit as stop:
            sys.stdout.flush()
            os._exit(stop.code or 0)
        finally:
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported the libraries forks one for each command: the same commands, seconds sooner."""


class Life:
    """A command while it runs."""

    def __init__(self, directory, log, pid, wait):
        self.directory, self.log, self.pid, self.wait = directory, log, pid, wait
        self.code = None

    def until(self, found, seconds=30, every=0.02):
        """Wait until `found(run)` is true for the only run below the directory; that run."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for file in self.directory.glob("runs/*/2*/run.lock.json"):
                if found(RunDirectory(file.parent)):
                    return file.parent
            time.sleep(every)
        raise AssertionError(f"nothing came of it: {self.said()}")

    def send(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self):
        """Its exit code; below 0 the signal that killed it."""
        if self.code is None:
            self.code = self.wait()
        return self.code

    def said(self):
        return self.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def parent():
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.communicate()


@pytest.fixture
def start(parent, tmp_path):
    """Start a command in a directory of its own: `start("run", "recipe.yaml")`. One at a time."""
    lives = []

    def begin(*arguments, limit=0):
        log = tmp_path / f"log-{len(lives)}.txt"
        order = {"arguments": list(map(str, arguments)), "directory": str(tmp_path), "log": str(log), "limit": limit}
        parent.stdin.write(json.dumps(order) + "\n")
        parent.stdin.flush()
        pid = int(parent.stdout.readline())
        lives.append(Life(tmp_path, log, pid, lambda: int(parent.stdout.readline())))
        return lives[-1]

    yield begin
    for life in lives:
        if life.code is None:
            life.send(signal.SIGKILL)
            life.end()


@pytest.fixture
def recipe(ftp_recipe, ftp_tiny_model, tmp_path):
    def write(rows=51, **overrides):
        model = {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"}
        adapter = {"use": "lora", "r": 4, "dropout": 0.2}
        answers = {"max_new_tokens": 4}
        file = ftp_recipe(**{"model": model, "adapter": adapter, "answers": answers, "train": LONG, **overrides})
        pairs = [{"instruction": f"Double {n}.", "response": f"{n} doubled is {2 * n}."} for n in range(rows)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
        return file.relative_to(tmp_path)

    return write


def ftp(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def events(run, name=None):
    return [event for event in RunDirectory(Path(run)).events() if name in (None, event["event"])]


def at_step(step):
    return lambda run: any(event["step"] >= step for event in events(run.path, "metric"))


def parts(run):
    return [path.name for path in Path(run).glob("checkpoints/*.part")]


def curve(run, name):
    return {event["step"]: event["loss"] for event in done_until(events(run)) if event["event"] == name}


def compare(run, whole):
    """Assert that a run came to what another came to; return the largest relative difference of a loss."""
    found = 0.0
    for name in ("metric", "validation"):
        ours, theirs = curve(run, name), curve(whole, name)
        assert ours.keys() == theirs.keys()
        found = max(found, *(abs(ours[step] / theirs[step] - 1) for step in theirs))
    assert found <= 1e-6
    for file in (*whole.glob("model/*.safetensors"), whole / "evaluation.json"):
        assert (run / file.relative_to(whole)).read_bytes() == file.read_bytes(), file.name
    rehearsals, begun, resumed = (len(events(run, event)) for event in ("rehearsal", "plan", "resume"))
    assert 1 <= rehearsals <= begun - resumed, "rehearsed after a checkpoint"
    return found


def finish(start, run, command="resume"):
    life = start(command, run)
    assert life.end() == 0, life.said()
    return life


def uninterrupted(start, file, tmp_path):
    life = start("run", file, "--runs", "whole")
    assert life.end() == 0, life.said()
    [whole] = tmp_path.glob("whole/*/2*")
    return whole


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # it has to hit the moment in which a checkpoint is written
def test_a_run_that_is_killed_three_times_comes_to_the_same(start, recipe, tmp_path):
    file = recipe(train={**LONG, "epochs": 4.3})
    whole = uninterrupted(start, file, tmp_path)
    life = start("run", file)
    run = life.until(lambda run: parts(run.path) and at_step(4)(run), every=0)
    life.send(signal.SIGKILL)
    assert life.end() == -signal.SIGKILL and parts(run), "in the middle of a checkpoint"
    base = (run / "answers" / "base-heldout.parquet").stat().st_mtime_ns
    for command, step in (("run", 11), ("resume", 18)):
        life = start(*((command, file) if command == "run" else (command, run)))
        life.until(at_step(step))
        life.send(signal.SIGKILL)
        assert life.end() == -signal.SIGKILL
    finish(start, run)
    compare(run, whole)
    assert [event["step"] for event in events(run, "resume")] == [0, 8, 16]
    assert (run / "answers" / "base-heldout.parquet").stat().st_mtime_ns == base
    assert not list(run.rglob("*.part"))


def half_written(run):
    """What is half written, with its time: a kill before may have left it."""
    return {(name, (run / "checkpoints" / name).stat().st_mtime_ns) for name in parts(run)}


def where(run, before, validated):
    """What a killed process was doing, by what it left; `before` was half written already."""
    if half_written(run) - before:
        return "checkpoint"
    since = []
    for event in events(run):
        since = [] if event["event"] == "start" else [*since, event]
    if not any(event["event"] == "plan" for event in since):
        return "before training"
    if not events(run, "rehearsal"):
        return "rehearsal"
    last = [event for event in since if event["event"] in ("metric", "validation", "checkpoint")]
    if not last:
        return "resuming"
    due = last[-1]["event"] == "metric" and last[-1]["step"] in validated
    return "validation" if due else "step"


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"use": "lora", "r": 4, "dropout": 0.2}, {"use": "full"}], ids=["lora", "full"])
def test_twenty_kills_at_random_moments_change_nothing(recipe, tmp_path, monkeypatch, adapter, record_property):
    monkeypatch.chdir(tmp_path)
    file = recipe(adapter=adapter, rows=153, data={"validation": 0.7}, train={**LONG, "epochs": 60.3})
    python = [sys.executable, "-m", "ftp"]
    subprocess.run([*python, "run", file, "--runs", "whole"], check=True, capture_output=True)
    [whole] = tmp_path.glob("whole/*/2*")
    draw = random.Random(20)
    places: dict[str, int] = {}
    run = None

    def goes_on(process):
        return process.poll() is None

    for number in range(20):
        command = ["run", str(file)] if number % 2 == 0 or run is None else ["resume", str(run)]
        with (tmp_path / "log.txt").open("ab") as log:
            process = subprocess.Popen([*python, *command], stdout=log, stderr=log, start_new_session=True)
        began, before = (len(events(run, "plan")), half_written(run)) if run else (0, set())
        while goes_on(process):
            run = next(iter(tmp_path.glob("runs/*/2*")), None)
            if run is not None and len(events(run, "plan")) > began:
                break
            time.sleep(0.01)
        if number < 2:  # rehearsals are short, and there is only one
            time.sleep(draw.uniform(0, 0.02))
        elif number % 4 == 2:
            while goes_on(process) and not set(parts(run)) - {name for name, _ in before}:
                pass
        else:
            time.sleep(draw.uniform(0, 1.0))
        assert goes_on(process), "killed too late; make the run longer"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        place = where(run, before, curve(whole, "validation"))
        places[place] = places.get(place, 0) + 1
    subprocess.run([*python, "resume", run], check=True, capture_output=True)
    difference = compare(run, whole)
    print(f"\n{adapter['use']}: killed in {places}, largest relative difference of a loss {difference}")
    assert sum(places.values()) == 20 and places["checkpoint"] >= 3


# --- stopped ----------------------------------------------------------------------------------------------------------


def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(start, recipe, tmp_path):
    file = recipe(train={**LONG, "epochs": 4.3})
    whole = uninterrupted(start, file, tmp_path)
    life = start("run", file)
    run = life.until(at_step(11))
    life.send(signal.SIGTERM)
    assert life.end() == 143
    assert f"Interrupted with a checkpoint saved; `ftp resume {run.relative_to(tmp_path)}` resumes it." in life.said()
    stopped = max(curve(run, "metric"))
    assert events(run)[-1]["event"] == "end" and events(run, "checkpoint")[-1]["step"] == stopped
    assert stopped % 8, "not a step that has a checkpoint anyhow"

    life = start("resume", run)
    life.until(lambda run: len(events(run.path, "resume")) == 1 and at_step(stopped + 3)(run))
    life.send(signal.SIGINT)
    assert life.end() == 130 and "with a checkpoint saved" in life.said()
    assert "Traceback" not in life.said()
    finish(start, run)
    compare(run, whole)


def test_a_second_signal_ends_training_at_once(start, recipe):
    life = start("run", recipe(train={**LONG, "gradient_accumulation": 12, "batch_size": 1}))
    run = life.until(at_step(2))
    life.send(signal.SIGTERM)
    life.until(lambda run: any("saving a checkpoint" in event["text"] for event in events(run.path, "note")))
    steps = len(events(run, "metric"))
    life.send(signal.SIGTERM)
    assert life.end() == 143
    assert "Interrupted; `ftp resume" in life.said() and "Traceback" not in life.said()
    assert len(events(run, "metric")) == steps, "the step was not waited for"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_training_a_signal_ends_the_run_at_once(start, recipe, tmp_path, number, code):
    life = start("run", recipe(answers={"max_new_tokens": 1500}, train={**LONG, "epochs": 1}))
    run = life.until(lambda run: "Answers of the base" in life.said())
    life.send(number)
    assert life.end() == code
    assert life.said().endswith(f"\nInterrupted; `ftp resume {run.relative_to(tmp_path)}` resumes it.\n")
    assert list(RunDirectory(run).stages()) == ["data"]


def test_a_run_that_is_going_on_says_who_does_it(start, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    life = start("run", recipe(train={**LONG, "epochs": 200}))
    run = life.until(at_step(1))
    held = ftp("resume", run)
    assert isinstance(held.exception, FtpError)
    assert f"in use by process {life.pid} on {socket.gethostname()} since" in str(held.exception)
    changed = ftp("resume", run, "--anyway")
    assert "in use by process" in str(changed.exception)


# --- starved ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before_it(start, recipe, tmp_path):
    # Weights that train grow no larger, so the limit is found first: a rehearsal has to fit, a checkpoint after it not.
    file = recipe(adapter={"use": "full"}, train={**LONG, "epochs": 3})
    life = start("run", file)
    run = life.until(at_step(10))
    life.send(signal.SIGTERM)
    assert life.end() == 143
    last = next(iter(run.glob("checkpoints/step-*")))
    largest = max(path.stat().st_size for path in last.iterdir())

    life = start("resume", run, limit=largest - 1000)
    assert life.end() == 2, life.said()
    said = life.said()
    assert "Traceback" not in said
    assert re.search(r"step-\d+: the checkpoint can't be written: .+; the last one, .+ is kept\. Free some space", said)
    assert last.name in said and f"`ftp resume {run}`" in said
    assert last.is_dir() and not parts(run)
    finish(start, run)
    assert list(curve(run, "metric")) == list(range(1, events(run, "plan")[0]["steps"] + 1))
    assert len(events(run, "rehearsal")) == 1


# --- changed ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(start, recipe, tmp_path, monkeypatch):
    """A run that was ended by a signal in its training."""
    monkeypatch.chdir(tmp_path)
    life = start("run", recipe(train={**LONG, "epochs": 3}))
    run = life.until(at_step(2))
    life.send(signal.SIGTERM)
    assert life.end() == 143
    return run.relative_to(tmp_path)


def test_changed_inputs_are_refused_in_detail_and_taken_anyway(interrupted, tmp_path, start, monkeypatch):
    run, lock = interrupted, json.loads((interrupted / "run.lock.json").read_text())
    rows = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(rows.replace("Double 2.", "Double two."))
    resolved = (run / "resolved.yaml").read_text()
    (run / "resolved.yaml").write_text(
        resolved.replace("epochs: 3\n", "epochs: 4\n").replace("epochs: 3.0", "epochs: 4")
    )
    lock["packages"]["trl"] = "0.1"
    (run / "run.lock.json").write_text(json.dumps(lock))

    refused = ftp("resume", run)
    said = str(refused.exception)
    assert isinstance(refused.exception, FtpError)
    assert f"{run}: the inputs of this run have changed since it began:" in said
    assert "  recipe: train.epochs: 3.0 -> 4.0\n" in said
    assert f"  data: {tmp_path / 'train.jsonl'}: its content has changed\n" in said
    assert '  packages: trl: "0.1" -> "' in said
    assert f"`ftp resume {run} --anyway` resumes this one" in said
    assert len(events(run, "start")) == 1, "nothing was begun"

    life = start("resume", run, "--anyway")
    assert life.end() == 0, life.said()
    [event] = events(run, "anyway")
    assert len(event["changes"]) == 3
    [entry] = json.loads((run / "run.lock.json").read_text())["anyway"]
    assert entry["changes"] == event["changes"]
    assert max(curve(run, "metric")) == 20
    # It is no run of either recipe: another one begins.
    life = start("run", "recipe.yaml", "--set", "train.epochs=4")
    assert life.end() == 0 and len(list(tmp_path.glob("runs/*/2*"))) == 2


def test_another_model_is_refused_when_it_is_loaded(interrupted):
    lock = json.loads((interrupted / "run.lock.json").read_text())
    lock["model"]["chat_template"] = "of before"
    (interrupted / "run.lock.json").write_text(json.dumps(lock))
    refused = ftp("resume", interrupted)
    assert 'model: chat_template: "of before" -> "' in str(refused.exception)
    done = ftp("resume", interrupted, "--anyway")
    assert done.exit_code == 0, done.output
    assert [event["changes"][0][:21] for event in events(interrupted, "anyway")] == ["model: chat_template:"]


def test_a_resumed_run_multiplies_in_the_type_that_it_began_with(interrupted, monkeypatch):
    import ftp.lm.torch_types as types

    def other(device, shapes=()):
        raise AssertionError("nothing is measured again")

    monkeypatch.setattr(types, "type_to_multiply_in", other)
    before = json.loads((interrupted / "run.lock.json").read_text())["model"]
    assert before["compute"] in ("float32", "bfloat16") and before["dtype"] == before["compute"]
    done = ftp("resume", interrupted)
    assert done.exit_code == 0, done.output
    assert json.loads((interrupted / "run.lock.json").read_text())["model"] == before
    assert {event["multiplies_in"] for event in events(interrupted, "speed")} == {before["compute"]}


def test_a_run_is_gone_on_with_from_anywhere_and_with_its_own_recipe(interrupted, tmp_path, monkeypatch):
    run = tmp_path / interrupted
    text = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(text.replace("name: small", "name: small\nseed: 7"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = ftp("resume", run)
    assert done.exit_code == 0, done.output
    kept = f"{tmp_path / 'recipe.yaml'} has changed since; the run continues with the recipe that it began"
    assert kept in done.stderr
    assert len(events(run, "resume")) == 1
    again = ftp("resume", run)
    assert again.exit_code == 0 and "This run is finished" in again.stderr


def test_a_changed_recipe_begins_a_run_and_tells_of_the_unfinished_one(interrupted, tmp_path):
    done = ftp("run", "recipe.yaml", "--set", "train.epochs=0.2")
    assert done.exit_code == 0, done.output
    said = f"with other inputs (recipe: train.epochs: 3.0 -> 0.2); `ftp resume {interrupted}` resumes it"
    assert said in done.stderr
    assert len(list(tmp_path.glob("runs/*/2*"))) == 2


def test_what_is_no_run_is_refused(tmp_path):
    assert "not a run directory" in str(ftp("resume", tmp_path).exception)


MINE = """import ftp


class Mine(ftp.Evaluator):
    'One.'

    def score(self, example: ftp.Example, answer: str) -> float:
        return 1.0


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"mine": Mine}
"""


def test_a_plugin_of_one_file_is_found_again(ftp_recipe, ftp_tiny_model, tmp_path, monkeypatch):
    from ftp import pipeline, plugins
    from ftp import recipe as recipes

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    file = ftp_recipe(evaluate=[{"use": "mine"}], model={"id": str(ftp_tiny_model)}, answers={"max_new_tokens": 4})
    assert ftp("run", file, "-p", "mine.py").exit_code == 0
    [run] = tmp_path.glob("runs/*/2*")
    origin = json.loads((run / "origin.json").read_text())
    assert origin == {"recipe": str(file), "plugins": [str(tmp_path / "mine.py")], "without": []}
    found = plugins.load(list(map(Path, origin["plugins"])))
    assert recipes.read(run / "resolved.yaml", found).evaluate[0].used_as == "mine"
    assert pipeline.Progress.directory is None


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"use": "lora", "r": 4, "dropout": 0.2}, {"use": "full"}], ids=["lora", "full"])
def test_deterministic_runs_of_two_processes_are_the_same_to_the_bit(recipe, tmp_path, monkeypatch, adapter):
    monkeypatch.chdir(tmp_path)
    file = recipe(adapter=adapter, train={**LONG, "epochs": 3, "deterministic": True})
    found = {}
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        command = ["run", file, "--runs", name, "--set", f"seed={seed}"]
        subprocess.run([sys.executable, "-m", "ftp", *command], check=True, capture_output=True)
        [weights] = tmp_path.glob(f"{name}/*/2*/model/*.safetensors")
        found[name] = weights.read_bytes()
    assert found["one"] == found["two"] != found["other"]
