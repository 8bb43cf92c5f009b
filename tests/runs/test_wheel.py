"""The wheel in an environment of its own, without extras: every command runs or says which extra it needs."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = re.compile(r"pip install (--no-deps )?'?ftp-finetune\[(train|serve|judge)\]'?")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ftp_alone(tmp_path_factory):
    """Return a function that runs `ftp` from the wheel, in an environment with nothing but its base dependencies."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", place, ROOT], check=True, timeout=300)
    [wheel] = place.glob("*.whl")
    venv.create(place / "venv", with_pip=True)
    binaries = place / "venv" / "bin"
    install = [binaries / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*install, "-c", ROOT / "constraints.txt", wheel], check=True, timeout=300)

    def run(*arguments):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(place), "FTP_CACHE": str(place / "cache")}
        command = [binaries / "ftp", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place, timeout=60, env=environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    assert run("init", "my").returncode == 0
    return run


RUN = object()
"""Stands for the directory of a finished run."""
RECIPE = "my/recipe.yaml"


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["init", "other", "--template", "qlora"],
        ["schema"],
        ["plugins"],
        ["plugins", "show", "judge"],
        ["doctor"],
        ["doctor", "--json"],
        ["runs"],
        ["runs", "--json"],
    ],
    ids=" ".join,
)
def test_runs_without_extras(ftp_alone, command):
    done = ftp_alone(*command)
    assert done.returncode == 0 and done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["check", RECIPE],
        ["run", RECIPE],
        ["run", RECIPE, "--seeds", "2"],
        ["plan", RECIPE],
        ["lr-find", RECIPE],
        ["data", "check", RECIPE],
        ["data", "show", RECIPE, "1"],
        ["data", "index", "-o", "held.ftpindex", "my/contracts/train.jsonl"],
        ["report", RUN],
        ["resume", RUN],
        ["eval", RUN],
        ["compare", RUN, RUN],
        ["export", RUN, "merged"],
        ["export", RUN, "gguf", "ollama"],
        ["chat", RUN],
        ["chat", "--server", "http://127.0.0.1:9/v1"],
        ["serve", RUN],
    ],
    ids=lambda command: " ".join("RUN" if part is RUN else part for part in command),
)
def test_says_which_extra_it_needs(ftp_alone, lora_runs, command):
    done = ftp_alone(*(lora_runs.one if part is RUN else part for part in command))
    assert done.returncode == 2 and not done.stdout, done.stdout
    lines = done.stderr.splitlines()
    assert lines and all("pip install" in line for line in lines), done.stderr
    assert NEEDS.search(done.stderr), done.stderr
    assert "[all]" not in done.stderr and len(lines) < 20, "one line for each component, and the smallest extra"


def test_a_judge_needs_its_extra(ftp_alone):
    judge = "evaluate=[{use: judge, model: gpt-5.4-mini, rubric: [accuracy]}]"
    done = ftp_alone("check", RECIPE, "--set", judge)
    assert done.returncode == 2 and "pip install 'ftp-finetune[judge]'" in done.stderr, done.stderr
