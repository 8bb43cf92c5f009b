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
