"""The commands as they are with the built-in plugins: what they import, and what they say of what is installed."""

import json

import pytest


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
def test_light_commands_import_no_heavy_library(ftp_recipe, assert_light, arguments):
    recipe = ftp_recipe()
    assert_light([str(recipe) if word == "RECIPE" else word for word in arguments])


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
