"""What several tests share."""

import os

# Tests run side by side, one process a core: more threads would only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import subprocess
import sys
from collections import Counter
from typing import NamedTuple

import pytest

from ftp.cli import main

SLOW_LIMIT = 1800
"""Seconds for a test marked `slow`."""


@pytest.hookimpl(tryfirst=True)  # before items are chosen by their markers
def pytest_collection_modifyitems(items):
    seen = Counter()
    for item in items:
        if thin := item.get_closest_marker("thin"):
            if seen[item.parent, item.originalname] % thin.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[item.parent, item.originalname] += 1
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT))


@pytest.fixture(scope="session", autouse=True)
def user_data_of_tests(tmp_path_factory):
    """Keep the key by which runs of this machine are known out of the home of whoever runs the tests."""
    before = os.environ.get("FTP_USER_DATA")
    os.environ["FTP_USER_DATA"] = str(tmp_path_factory.mktemp("user-data"))
    yield
    os.environ.pop("FTP_USER_DATA") if before is None else os.environ.update(FTP_USER_DATA=before)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def ftp(tmp_path, monkeypatch, capsys):
    """Run the real command in a directory of its own: `ftp("check", "recipe.yaml")`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ftp", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        return Outcome(exit.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def check_recipe(ftp, tmp_path):
    """Write a recipe, with a row for each of the two files that it may name, and run `ftp check r.yaml`."""

    def check(text):
        for name in ("train", "held"):
            (tmp_path / f"{name}.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
        (tmp_path / "r.yaml").write_text(text)
        return ftp("check", "r.yaml")

    return check


HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "openai")


@pytest.fixture
def assert_light():
    """Run a command in a process of its own and check that it imports no heavy library."""

    def check(arguments):
        code = (
            "import sys\nfrom ftp.cli import main\n"
            f"sys.argv = ['ftp', *{arguments!r}]\n"
            "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
            f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
            "assert not found, found\n"
            "if sys.argv[-1] == '--help':\n    assert 'pydantic' not in sys.modules\n"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr

    return check
