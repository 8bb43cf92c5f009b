"""The commands as they are with the built-in plugins: what they import, and what they say of what is installed."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "openai")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *[
            [name, "--help"]
            for name in ("chat", "compare", "data", "doctor", "eval", "export", "lr-find", "plan", "runs", "serve")
        ],
        ["plugins"],
        ["plugins", "show", "lora"],
        ["schema"],
        ["check", "RECIPE"],
        ["check", "RECIPE", "--set", "adapter.r=8"],
    ],
)
def test_light_commands_import_no_heavy_library(ftp_recipe, arguments):
    recipe = ftp_recipe()
    arguments = [str(recipe) if word == "RECIPE" else word for word in arguments]
    code = (
        "import sys\nfrom ftp.cli import main\n"
        f"sys.argv = ['ftp', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
        "if sys.argv[-1] == '--help':\n    assert 'pydantic' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_plugins_as_json(ftp):
    listed = json.loads(ftp("plugins", "--json").out)
    offers = {(offer["kind"], offer["name"]) for plugin in listed["plugins"] for offer in plugin["offers"]}
    assert offers >= {("adapters", "qlora"), ("loaders", "gguf"), ("reporters", "html")}
    assert listed["clashes"] == []


def test_show_prints_options_and_guesses_names(ftp):
    shown = ftp("plugins", "show", "lora")
    assert "alpha  (default 32)" in shown.out and "Rank-stabilised" in shown.out
    wrong = ftp("plugins", "show", "lorra")
    assert wrong.code == 2 and "did you mean 'lora'?" in wrong.err


def test_doctor_tells_versions_and_hardware(ftp):
    found = json.loads(ftp("doctor", "--json").out)
    assert found["packages"]["train"]["torch"]
    assert found["hardware"]["4-bit"] == "nf4 works on cpu" or "cuda:0" in found["hardware"]
