"""The core's tests run without a built-in plugin, and so does the core."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ftp import plugins


def test_no_built_in_plugin_is_there():
    assert plugins.load().plugins == []
    with pytest.raises(ImportError, match="without the built-in plugins"):
        import ftp_plugins
    with pytest.raises(ImportError, match="without the built-in plugins"):
        import ftp_plugins.formatters.pairs  # noqa: F401


def test_nor_in_a_process_of_its_own(toys):
    done = subprocess.run([sys.executable, "-m", "ftp", "plugins"], capture_output=True, text=True, check=True)
    assert "toys:toys" in done.stdout and "ftp-finetune" not in done.stdout
    listed = subprocess.run([sys.executable, "-m", "ftp", "--help"], capture_output=True, text=True, check=True).stdout
    assert "check" in listed and "compare" not in listed
    failed = subprocess.run([sys.executable, "-c", "import ftp_plugins"], capture_output=True, text=True)
    assert "without the built-in plugins" in failed.stderr


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_no_test_of_the_core_imports_one_at_module_level(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [getattr(node, "module", "") or "", *(alias.name for alias in getattr(node, "names", ()))]
        assert not any(str(name).split(".")[0] == "ftp_plugins" for name in names), path
