"""Inputs that once ended in a traceback, a hang or a screen full of noise."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from ftp.cache import forget_unused
from ftp.cli.echo import message
from ftp.data.files import files_of
from ftp.errors import DataError
from ftp.files import clear_parts


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (".".join("a" * 1000) + "=1", "nested too deeply"),
        ("name=" + "[" * 60 + "]" * 60, "nested too deeply"),
        ("data.train.0.path=~nobody-of-this-name/x", "home directory"),
        ('name="\\U00110000"', "not valid YAML"),
        ("name=\x1b[31mred", "the character U+001B is not allowed"),
        ("data.train.0.path=" + "a" * 5000, "File name too long"),
    ],
    ids=["keys", "lists", "home", "no character", "escape", "long path"],
)
def test_a_setting_that_can_not_be(ftp, toy_recipe, setting, said):
    outcome = ftp("check", str(toy_recipe()), "--set", setting)
    assert outcome.code == 2
    assert said in outcome.err
    assert "\x1b" not in outcome.err
    assert max(map(len, outcome.err.splitlines()), default=0) < 1200


def test_a_recipe_that_can_not_be_opened(ftp, tmp_path):
    (tmp_path / "directory").mkdir()
    for name in ("directory", "a" * 5000, "none.yaml"):
        outcome = ftp("check", name)
        assert outcome.code == 2
        assert len(outcome.err.splitlines()) == 1


@pytest.fixture
def no_root():
    """Give up root for a test, as root may read everything."""
    if os.name == "nt":
        pytest.skip("directories have no mode on Windows")
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root may read everything, and this one can't become another user")
    yield
    os.seteuid(0)


def test_a_directory_that_may_not_be_read(tmp_path, no_root):
    locked = Path(tempfile.mkdtemp())  # pytest's own directory is root's
    locked.chmod(0)
    try:
        with pytest.raises(DataError, match=f"{locked}: can't be read: Permission denied"):
            files_of(str(locked))
    finally:
        locked.rmdir()


def test_a_directory_that_can_not_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(DataError, match="can't be read: Permission denied"):
        files_of(str(tmp_path))


def test_messages_are_escaped_and_cut():
    assert message("a\x1b[2J\u202eb\tc\nd") == "a\\u001b[2J\\u202eb\tc\nd"
    long = message("x" * 10_000)
    assert len(long) == 1003
    assert message("\n" * 500).splitlines()[-1] == "… and 401 more lines"


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "weights").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.arrow.part").write_text("x")
    (tmp_path / "data" / "rows.arrow").write_text("x")
    clear_parts(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["data", "data/rows.arrow"]


def test_a_cache_forgets_half_written_files_after_a_day(tmp_path):
    for name, days in (("new.1.part", 0.5), ("old.1.part", 2), ("used", 2), ("unused", 31)):
        (tmp_path / name).write_text("x")
        then = time.time() - days * 86400
        os.utime(tmp_path / name, (then, then))
    forget_unused(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.1.part", "used"]
