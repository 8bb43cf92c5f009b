"""Finished runs of a tiny model, trained once for all tests."""

from pathlib import Path
from typing import NamedTuple

import pytest
from trained_runs import train_run


class Runs(NamedTuple):
    """Paths of run directories."""

    one: Path
    two: Path
    """Another rank and other answers, on the same base model."""


@pytest.fixture(scope="session")
def lora_runs(tmp_path_factory, ftp_tiny_model):
    place = tmp_path_factory.mktemp("lora-runs")
    two = train_run(place, ftp_tiny_model, "two", {"use": "lora", "r": 8}, rate=0.02, says="The risk is {twice}!")
    return Runs(train_run(place, ftp_tiny_model), two)
