"""The command line itself: what it imports, how errors look, other people's commands."""

import json
import os
import subprocess
import sys

import pytest


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ftp", *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *[[name, "--help"] for name in ("init", "check", "run", "resume", "report", "plugins", "schema")],
        ["plugins"],
        ["plugins", "show", "part"],
        ["schema"],
        ["check", "RECIPE"],
        ["check", "RECIPE", "--set", "adapter.rank=8"],
    ],
)
def test_light_commands_import_no_heavy_library(toys, toy_recipe, assert_light, arguments):
    recipe = toy_recipe()
    assert_light([str(recipe) if word == "RECIPE" else word for word in arguments])


def test_errors_are_plain_text_with_exit_code_2(tmp_path):
    result = run("check", tmp_path / "none.yaml")
    assert result.returncode == 2
    assert result.stderr == f"{tmp_path / 'none.yaml'}: No such file or directory\n"
    assert result.stdout == ""


def test_a_misspelt_command_is_guessed():
    result = run("rnu")
    assert result.returncode == 2 and "no command 'rnu'; did you mean 'run'?" in result.stderr


def test_plugins_as_json(toys):
    found = json.loads(run("plugins", "--json").stdout)
    offers = {(offer["kind"], offer["name"]) for plugin in found["plugins"] for offer in plugin["offers"]}
    assert offers >= {("adapters", "whole"), ("loaders", "store"), ("reporters", "plain")}
    assert found["clashes"] == []


def test_show_prints_options_and_guesses_names(toys):
    result = run("plugins", "show", "part")
    assert "rank  (default 8)" in result.stdout and "Its size." in result.stdout
    wrong = run("plugins", "show", "prat")
    assert wrong.returncode == 2 and "did you mean 'part'?" in wrong.stderr


THEIRS = """
import click
print("IMPORTED")

@click.command()
def command():
    '''Say hello.'''
    click.echo("hello from acme")
"""


def test_commands_of_others_are_loaded_only_when_named(ftp_install):
    entries = {"hello": "acme_hello:command", "run": "acme_hello:command", "broken": "acme_none:command"}
    site = ftp_install("acme-hello", THEIRS, group="ftp.commands", entry_points=entries)
    env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ['PYTHONPATH']}"}
    listed = run("--help", env=env)
    assert "From acme-hello." in listed.stdout and "IMPORTED" not in listed.stdout
    assert "hello from acme" in run("hello", env=env).stdout
    assert "Run a recipe:" in run("run", "--help", env=env).stdout, "ours can't be shadowed"
    broken = run("broken", env=env)
    assert broken.returncode != 0 and "can't be loaded" in broken.stderr and "Traceback" not in broken.stderr
