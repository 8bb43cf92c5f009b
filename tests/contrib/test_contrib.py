"""The example packages of third parties: found through a fake dist-info, and installed for real by pip."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ftp import pipeline, plugins, recipe
from ftp.errors import RecipeError
from ftp.testing import Install, WriteRecipe

CONTRIB = Path(__file__).parents[2] / "contrib"
SOURCES = {"ftp-brevity": "ftp_brevity.py", "ftp-acme-evals": "ftp_acme_evals", "ftp-focal": "ftp_focal.py"}
TICKET = {
    "ticket": 4711,
    "subject": "Late fee",
    "events": [{"author": "customer", "body": "Does clause 4.2 apply?"}],
    "resolution": "Yes, clause 4.2 applies.",
}


@pytest.fixture
def installed(ftp_install: Install) -> list[Path]:
    """The packages, by the entry points that their pyproject.toml declares."""
    sites = []
    for name, source in SOURCES.items():
        project = tomllib.loads((CONTRIB / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["name"] == name
        entry_points = project["entry-points"]["ftp"]
        sites.append(ftp_install(name, CONTRIB / name / source, version=project["version"], entry_points=entry_points))
    return sites


def write_tickets(directory: Path) -> list[str]:
    """Two files of eight tickets; no ticket of one is like one of the other."""
    questions = {
        "tickets.jsonl": "When does the warranty on part number {} from the spring delivery run out for our Lyon site?",
        "tickets-heldout.jsonl": "Please tell us whether invoice {} may still be disputed after thirty days.",
    }
    for name, question in questions.items():
        lines = []
        for number in range(8):
            event = {"author": "customer", "body": question.format(number)}
            lines.append(json.dumps({**TICKET, "ticket": f"{name}-{number}", "events": [event]}) + "\n")
        (directory / name).write_text("".join(lines), encoding="utf-8")
    return list(questions)


def test_all_are_found(installed: list[Path]) -> None:
    found = plugins.load()
    assert found.clashes == []
    offers = {plugin.name: (plugin.version, plugin.error, plugin.offers) for plugin in found.plugins}
    assert offers["ftp-brevity:brevity"] == ("0.1", None, [("evaluators", "brevity")])
    assert offers["ftp-focal:focal"] == ("0.1", None, [("trainers", "focal")])
    assert offers["ftp-acme-evals:acme"] == (
        "0.1",
        None,
        [("formatters", "acme_tickets"), ("loaders", "acme_store"), ("evaluators", "acme_citations")],
    )


def test_a_recipe_can_name_brevity(installed: list[Path], ftp_recipe: WriteRecipe) -> None:
    file = ftp_recipe(evaluate=[{"use": "brevity", "max_words": 3}])
    (brevity,) = recipe.read(file, plugins.load()).evaluate
    assert brevity.used_as == "brevity"
    assert (brevity.score(None, "one two three"), brevity.score(None, "one two three four")) == (1, 0)


def test_a_wrong_option_of_brevity_has_its_place(installed: list[Path], ftp_recipe: WriteRecipe) -> None:
    file = ftp_recipe(evaluate=[{"use": "brevity", "max_word": 3}])
    with pytest.raises(RecipeError, match=r"evaluate\.0\.max_word: unknown key; did you mean .max_words."):
        recipe.read(file, plugins.load())


def test_a_recipe_without_the_package_is_told_so(ftp_recipe: WriteRecipe) -> None:
    without = ["ftp-brevity:brevity"] if "brevity" in plugins.load().offers("evaluators") else []
    with pytest.raises(RecipeError, match=r"nothing called .brevity. is installed"):
        recipe.read(ftp_recipe(evaluate=[{"use": "brevity"}]), plugins.load(without=without))


def test_the_documentation_shows_the_package_as_it_is() -> None:
    def lines(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if line.strip())  # a formatter may set empty ones

    shown = lines((CONTRIB.parent / "docs" / "write-a-plugin.md").read_text(encoding="utf-8"))
    module = (CONTRIB / "ftp-brevity" / "ftp_brevity.py").read_text(encoding="utf-8")
    project, _, _ = (CONTRIB / "ftp-brevity" / "pyproject.toml").read_text(encoding="utf-8").partition("[build-system]")
    assert f"```python\n{lines(module)}\n```" in shown
    assert f"```toml\n{lines(project)}\n```" in shown


@pytest.mark.slow
def test_a_whole_run_on_the_houses_own_parts(
    installed: list[Path], ftp_recipe: WriteRecipe, ftp_tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(ftp_tiny_model, tmp_path / "store" / "tiny")
    checksum = hashlib.sha256((ftp_tiny_model / "model.safetensors").read_bytes()).hexdigest()
    entry = {"path": "tiny", "sha256": {"model.safetensors": checksum}}
    (tmp_path / "store" / "index.json").write_text(json.dumps({"models": {"tiny": {"1": entry}}}), encoding="utf-8")
    train, heldout = write_tickets(tmp_path)
    file = ftp_recipe(
        model={"use": "acme_store", "store": "store", "model": "tiny", "version": "1", "device": "cpu"},
        data={
            "train": [{"path": train, "format": {"use": "acme_tickets"}}],
            "evals": {"heldout": {"path": heldout, "format": {"use": "acme_tickets"}}},
        },
        answers={"max_new_tokens": 8},
        evaluate=[{"use": "acme_citations"}, {"use": "brevity", "max_words": 5}],
    )
    found = plugins.load()
    run = pipeline.run(recipe.read(file, found), found, file, tmp_path / "runs", pipeline.Progress())
    assert [evaluation.evaluator for evaluation in run.evaluations] == ["acme_citations", "brevity"]
    assert [len(evaluation.metrics[0].tuned_scores) for evaluation in run.evaluations] == [8, 8]
    assert run.lock["model"]["name"] == "tiny 1"
    assert run.lock["plugins"]["ftp-acme-evals:acme"] == "0.1"


@pytest.mark.slow
def test_pip_installs_them_for_real(tmp_path: Path, ftp_recipe: WriteRecipe) -> None:
    target = tmp_path / "site"
    for name in SOURCES:
        # A copy, so that nothing that a build leaves behind comes into the tree.
        shutil.copytree(CONTRIB / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "dist", "build"))
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
        command += ["--disable-pip-version-check", "--target", str(target), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (target / "tests").exists()

    def ftp(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(target)}
        command = [sys.executable, "-m", "ftp", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    listed = ftp("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    offers = {
        plugin["plugin"]: [offer["name"] for offer in plugin["offers"]]
        for plugin in json.loads(listed.stdout)["plugins"]
    }
    assert offers["ftp-brevity:brevity"] == ["brevity"]
    assert offers["ftp-acme-evals:acme"] == ["acme_tickets", "acme_store", "acme_citations"]

    for_people = ftp("plugins")
    assert all(name in for_people.stdout for name in ("brevity", "acme_citations", "acme_tickets", "acme_store"))

    checked = ftp("check", str(ftp_recipe(evaluate=[{"use": "brevity"}, {"use": "acme_citations", "every": True}])))
    assert checked.returncode == 0, checked.stdout + checked.stderr
