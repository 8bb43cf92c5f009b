"""What several tests share."""

import os

# Tests run side by side, one process a core: more threads would only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sys
from typing import NamedTuple

import pytest

from ftp.cli import main

SLOW_LIMIT = 1800
"""Seconds for a test marked `slow`."""


def pytest_collection_modifyitems(items):
    for item in items:
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
