"""Every test finds the package through its real entry point, whether it is installed or not."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ftp.testing import Install

HOME = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def installed(ftp_install: Install) -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ftp_install(project["name"], HOME / "ftp_acme_evals", entry_points=project["entry-points"]["ftp"])
