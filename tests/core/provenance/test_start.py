"""Which run a recipe continues: an equal one, an unfinished one, and none that is damaged."""

import pytest

from ftp.provenance.fingerprints import INPUTS
from ftp.provenance.start import equal_run, unfinished_run
from ftp.runs.directory import RunDirectory


@pytest.mark.parametrize("content", [b'{"recipe":\n', b"\xff\x00", b"[]", b"{}"])
def test_an_old_run_that_is_damaged_is_passed_over_and_named(tmp_path, content):
    lock = {part: {} for part in INPUTS}
    good, bad = (RunDirectory(tmp_path / "small" / id) for id in ("1", "2"))
    for run in (good, bad):
        run.path.mkdir(parents=True)
        run.write_json("run.lock.json", lock)
    (bad.path / "run.lock.json").write_bytes(content)
    notes = []
    assert equal_run(tmp_path, "small", lock, notes.append).path == good.path
    [note] = notes
    assert note.startswith(f"An old run is skipped: {bad.path}")
    assert unfinished_run(tmp_path, "small", notes.append).path == good.path and len(notes) == 1
    (good.path / "stages.json").write_bytes(b"{")
    assert unfinished_run(tmp_path, "small", notes.append) is None
    assert notes[1].startswith(f"An old run is skipped: {good.path / 'stages.json'}:1: damaged")
