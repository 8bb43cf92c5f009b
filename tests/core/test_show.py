"""Progress in a terminal of 80 columns, and as plain lines where there is none."""

import io
import re

from rich.console import Console

from ftp.cli.show import Plain, live

METRIC = {"step": 126, "loss": 1.5981, "tokens_per_second": 10108.4, "memory_mb": 11906.0, "seconds": 500.0}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def lines_at(columns, work):
    """Every line that a terminal of so many columns was sent."""
    file = io.StringIO()
    with live(Console(file=file, force_terminal=True, width=columns, _environ={})) as progress:
        work(progress)
        progress.bars.refresh()
    return [line for line in re.split(r"[\n\r]", file.getvalue()) if CONTROL.sub("", line).strip()]


def train(progress):
    advance = progress.stage("Answers of the base model to a-rather-long-name-of-an-eval-set", 60)
    advance(7)
    progress.bars.refresh()
    progress.stage("Training")
    progress.event("plan", {"steps": 1680})
    progress.event("validation", {"step": 100, "loss": 1.7951})
    progress.event("metric", METRIC)


def test_a_training_fits_into_80_columns():
    lines = [CONTROL.sub("", line) for line in lines_at(80, train)]
    assert max(map(len, lines)) <= 80
    [last] = [line for line in lines if "loss" in line][-1:]
    assert "Training" in last and "126/1680" in last and "loss 1.598, val 1.795, 10,108 tok/s" in last


def test_a_finished_stage_becomes_a_line():
    lines = [CONTROL.sub("", line) for line in lines_at(80, train)]
    assert any(
        re.match(r"Answers of the base model to a-rather-long-name-of-an-eval-set: 60, 0:00:0\d", x) for x in lines
    )


def test_plain_lines_say_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr("ftp.cli.show.PLAIN_EVERY", 0.0)
    plain = Plain()
    plain.stage("Tokenising", 10)(5)
    plain.event("plan", {"steps": 1680})
    plain.event("metric", METRIC)
    out = capsys.readouterr().err
    assert re.search(r"Tokenising: 5 of 10, 0:00:00 left", out)
    assert "step 126 of 1680: loss 1.598, 10,108 tok/s, 11.9 GB, 1:42:47 left" in out
