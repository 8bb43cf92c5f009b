"""What several tests share."""

import sys
from typing import NamedTuple

import pytest
from ftp.cli import main


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
