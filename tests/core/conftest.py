"""The core by itself: a distribution without a built-in plugin, and three toy components to name in recipes."""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

NO_PLUGINS = 'raise ImportError("the tests of the core run without the built-in plugins")\n'
TOYS = Path(__file__).with_name("toys.py")


@pytest.fixture(scope="session")
def core_alone(tmp_path_factory):
    """A directory that, first on the path, makes `ftp-finetune` a distribution that brings no plugin and no command."""
    site = tmp_path_factory.mktemp("core-alone")
    (site / "ftp_plugins.py").write_text(NO_PLUGINS)
    real = importlib.metadata.distribution("ftp-finetune")
    info = site / f"ftp_finetune-{real.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(real.read_text("METADATA"), encoding="utf-8")
    return site


@pytest.fixture(autouse=True)
def no_built_in_plugin(core_alone, monkeypatch):
    """Keep the built-in plugins out of this test and of the processes that it starts."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ftp_plugins"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(core_alone)
    path = [str(core_alone), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


@pytest.fixture
def toys(ftp_install, no_built_in_plugin, monkeypatch):
    """Install the toy components, for the processes of the test too; their module."""
    site = ftp_install("toys", TOYS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    return importlib.import_module("toys")


@pytest.fixture
def toy_recipe(ftp_recipe, toys):
    """Write a recipe of toy components; keywords change it as they change that of `ftp_recipe`."""

    def write(**overrides):
        source = {"path": "train.jsonl", "format": {"use": "pairs"}}
        recipe = {
            "model": {"use": "store", "id": "some/model"},
            "adapter": {"use": "part"},
            "data": {"train": [source], "evals": {"heldout": {"path": "heldout.jsonl", "format": {"use": "pairs"}}}},
            "train": {"use": "steps"},
            "evaluate": [{"use": "same"}],
        }
        return ftp_recipe(**{**recipe, **overrides})

    return write
