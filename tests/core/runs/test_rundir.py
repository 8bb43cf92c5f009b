"""The run directory: one writer, and stages that know what they were made from."""

import math
import os
import signal
import socket
import subprocess
import sys

import pytest

from ftp.errors import RunError
from ftp.files import digest, file_digest
from ftp.runs.directory import RunDirectory, runs_below


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "contract-risk")


def test_a_new_run_has_a_directory_of_its_own(tmp_path):
    runs = [RunDirectory.create(tmp_path, "x") for _ in range(20)]
    assert len({run.path for run in runs}) == 20
    assert {run.name for run in runs} == {"x"}
    assert all(run.path == tmp_path / "x" / run.id for run in runs)


def test_runs_are_found_by_name_and_age(tmp_path):
    for name, id in (("b", "20250102-000000-aa"), ("a", "20250101-000000-bb"), ("b", "20250103-000000-cc")):
        (tmp_path / name / id).mkdir(parents=True)
        (tmp_path / name / id / "run.lock.json").write_text("{}")
    (tmp_path / "b" / "20250104-000000-dd").mkdir()  # one that never began
    assert [run.id[-2:] for run in runs_below(tmp_path)] == ["bb", "aa", "cc"]
    assert [run.id[-2:] for run in runs_below(tmp_path, "b")] == ["aa", "cc"]
    assert runs_below(tmp_path / "none") == []


# --- events --------------------------------------------------------------------------------------------------------


def test_events_are_appended(run):
    assert run.events() == []
    run.emit("metric", step=1, loss=0.5)
    run.emit("note", text="two\nlines\u2028and more 😀", file=run.path)
    run.emit("metric", step=2, loss=math.nan)
    found = run.events()
    assert [event["event"] for event in found] == ["metric", "note", "metric"]
    assert found[1]["text"] == "two\nlines\u2028and more 😀"
    assert found[1]["file"] == str(run.path)
    assert found[2]["loss"] == "nan"
    assert all(event["time"].endswith("+00:00") for event in found)
    assert (run.path / "events.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    "torn", [b'{"event": "met', b'{"event": "note", "text": "a', '{"text": "\u00e9'.encode()[:-1], b'"', b"1", b""]
)
def test_a_last_line_that_was_torn_is_no_event(run, torn):
    run.emit("metric", step=1)
    with (run.path / "events.jsonl").open("ab") as stream:
        stream.write(torn)
    assert [event["step"] for event in run.events()] == [1]
    run.emit("metric", step=2)
    assert [event["step"] for event in run.events()] == [1, 2]


# --- stages --------------------------------------------------------------------------------------------------------


def test_a_stage_is_done_once_on_the_same_inputs(run):
    inputs = {"data": "1", "recipe": "2"}
    assert not run.is_done("train", inputs)
    run.finish("data", inputs)
    assert not run.is_done("train", inputs)
    run.finish("train", inputs)
    assert run.is_done("train", inputs)
    assert RunDirectory(run.path).is_done("data", dict(reversed(inputs.items())))
    assert set(run.stages()) == {"data", "train"}


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        ({"data": "9", "recipe": "2"}, "data"),
        ({"data": "9", "recipe": "8"}, "data, recipe"),
        ({"data": "1"}, "recipe"),
        ({"data": "1", "recipe": "2", "plugins": "3"}, "plugins"),
    ],
)
def test_changed_inputs_are_refused_by_name(run, now, changed):
    run.finish("train", {"data": "1", "recipe": "2"})
    with pytest.raises(RunError) as caught:
        run.is_done("train", now)
    assert str(caught.value) == (
        f"{run.path}: stage 'train' was done on other inputs; changed since: {changed}. Start a new run with --new."
    )


def test_digests(tmp_path):
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- one writer ----------------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time; from pathlib import Path; from ftp.runs.directory import RunDirectory\n"
    "with RunDirectory(Path(sys.argv[1])).lock():\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture
def holder(run):
    """Another process that holds the run."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named(run, holder):
    with pytest.raises(RunError) as caught, run.lock():
        raise AssertionError("two writers")
    said = str(caught.value)
    assert said.startswith(f"{run.path}: in use by process {holder.pid} on {socket.gethostname()} since 20")
    assert said.endswith("; wait for it, or start another run with --new")


def test_the_lock_dies_with_its_process(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert run.read_json(".writer.json")["pid"] == holder.pid  # it had no time to tidy up
    with run.lock():
        assert run.read_json(".writer.json")["pid"] == os.getpid()


def test_the_lock_is_free_after_use_and_after_an_error(run):
    with run.lock():
        pass
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        assert run.read_json(".writer.json")["pid"] == os.getpid()
    assert run.read_json(".writer.json") is None
