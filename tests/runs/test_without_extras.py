"""Without any extra, every command runs or names the package that it needs and the extra that brings it."""

import importlib.metadata
import subprocess
import sys

import pytest

BLOCKED = """
import sys

ALLOWED = {{*sys.stdlib_module_names, "ftp", "ftp_plugins", "click", "pluggy", "yaml", "_yaml", "rich", "pygments",
    "markdown_it", "mdurl", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in ALLOWED and not package.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv = ["ftp", *{arguments!r}]
from ftp.cli import main
main()
"""
"""A process in which nothing beyond the base dependencies can be imported."""
COMMANDS = sorted(
    {"check", "init", "plugins", "report", "resume", "run", "schema"}
    | {entry.name for entry in importlib.metadata.entry_points(group="ftp.commands")}
)
ON_A_RECIPE = [["check"], ["run"], ["plan"], ["lr-find"], ["data", "check"]]
ON_A_RUN = [["report"], ["resume"], ["eval"], ["compare"], ["export", "--as", "merged"], ["chat"], ["serve"]]


def without_extras(*arguments, cwd):
    code = BLOCKED.format(arguments=list(map(str, arguments)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extra(command, tmp_path):
    done = without_extras(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "Usage: ftp" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ON_A_RECIPE, ids=" ".join)
def test_on_a_recipe_the_extra_is_named(command, tmp_path, ftp_recipe):
    done = without_extras(*command, ftp_recipe(), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "pip install 'ftp-finetune[" in done.stderr, done.stderr


@pytest.mark.parametrize("command", ON_A_RUN, ids=" ".join)
def test_on_something_else_there_is_no_traceback(command, tmp_path):
    done = without_extras(*command, tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr, done.stderr


@pytest.mark.parametrize("command", [["plugins"], ["schema"], ["runs"], ["init"], ["doctor"]], ids=" ".join)
def test_commands_that_need_no_recipe_run(command, tmp_path):
    done = without_extras(*command, cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or "pip install" in done.stderr + done.stdout, done.stderr
