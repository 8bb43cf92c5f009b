"""Files of a run: whole or not at all, and JSON that every reader takes."""

import json
import math
import signal
import subprocess
import sys

import pytest

from ftp.files import finite
from ftp.records.directory import GuardedDirectory


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return GuardedDirectory(tmp_path / "run")


def test_a_file_is_replaced_whole(run):
    run.write_text("a.txt", "first\n")
    assert run.write_text("a.txt", "größe\n").read_bytes() == "größe\n".encode()
    assert [file.name for file in run.path.iterdir()] == ["a.txt"]


def test_a_write_that_breaks_off_leaves_the_old_file(run):
    run.write_text("a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        run.write_text("a.txt", "x" * 100_000 + "\ud800")
    assert (run.path / "a.txt").read_text() == "old"


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(run):
    run.write_text("a.txt", "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from ftp.records.directory import GuardedDirectory\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "GuardedDirectory(Path(sys.argv[1])).write_text('a.txt', 'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run.path)]).returncode == -signal.SIGKILL
    assert (run.path / "a.txt").read_text() == "old"
    run.write_text("a.txt", "newer")
    assert (run.path / "a.txt").read_text() == "newer"


def test_a_directory_takes_its_name_when_it_is_full(run):
    with run.new_directory("model") as directory:
        (directory / "weights").write_text("1")
        assert not (run.path / "model").exists()
    assert (run.path / "model" / "weights").read_text() == "1"


def test_a_directory_that_breaks_off_leaves_the_old_one(run):
    with run.new_directory("model") as directory:
        (directory / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), run.new_directory("model") as directory:
        (directory / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (run.path / "model" / "weights").read_text() == "old"
    with run.new_directory("model") as directory:
        assert list(directory.iterdir()) == []  # nothing of the half
        (directory / "other").write_text("new")
    assert [file.name for file in (run.path / "model").iterdir()] == ["other"]


def test_json_has_no_nan(run):
    values = {"nan": math.nan, "list": [math.inf, -math.inf, 1.5], "tuple": (math.nan,), "deep": {"x": {"y": math.nan}}}
    text = run.write_json("a.json", values).read_text()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    assert json.loads(text, parse_constant=refuse) == {
        "nan": "nan",
        "list": ["inf", "-inf", 1.5],
        "tuple": ["nan"],
        "deep": {"x": {"y": "nan"}},
    }
    assert run.read_json("a.json")["list"][2] == 1.5
    assert run.read_json("none.json") is None
    assert finite("nan") == "nan"
