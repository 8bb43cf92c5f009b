"""What names and texts of others could do to a terminal, and don't."""

import io
import re

import pytest

from ftp.cli.console import Console
from ftp.cli.show import Plain, live

BAD = "\x1b]0;owned\x07\x1b[2J\r\u202e\x9b[red] [/x]"
SHOWN = r"\u001b]0;owned\u0007\u001b[2J\u000d\u202e\u009b[red] [/x]"


def work(progress):
    """Everything that a run may show, with texts that other people chose."""
    progress.stage(f"Answers {BAD}", 3)(3)
    progress.note(f"progress {BAD}")
    progress.event("note", {"text": f"event {BAD}"})
    progress.event("watcher", {"by": BAD, "asks": "nothing", "reason": f"reason {BAD}"})
    progress.event("plan", {"steps": 3, "speed": BAD})
    progress.stage(BAD)


def on_a_terminal():
    file = io.StringIO()
    with live(Console(file=file, force_terminal=True, width=200, _environ={})) as progress:
        work(progress)
    # What remains is what the progress bar itself sends: colours, cursor and lines.
    return re.sub(r"\x1b\[(\?25[lh]|[0-9;]*[mKA])|\r", "", file.getvalue())


def in_a_file(capsys):
    work(Plain())
    return capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_and_notes_do_not_act_on_the_terminal(capsys, terminal):
    said = on_a_terminal() if terminal else in_a_file(capsys)
    assert not {*"\x1b\x07\r\u202e\x9b"} & {*said}, ascii(said)
    shown = SHOWN.replace(r"\u0007", "").replace(r"\u000d", "") if terminal else SHOWN  # rich drops these two
    for start in ("progress", "event", "reason"):
        assert f"{start} {shown}" in said
