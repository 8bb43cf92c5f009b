"""Slots of built-in components, filled with a third party's."""

import dataclasses
import json

import pytest

from ftp import plugins, recipe
from ftp_plugins.evaluators.judge import Judge
from ftp_plugins.judging.local import LocalModel

HOUSE = '''
import ftp
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles


class Shelf(HuggingFaceFiles):
    """Models of the house."""

    place: str
    """Where one lies."""

    def locate(self):
        return ModelFiles(self.place, "house-judge")


class Ticket(ftp.Formatter):
    """A ticket of the house."""

    question: str = "ask"
    """Column of the question."""

    def format(self, row):
        return ftp.Example((ftp.Message("user", row[self.question]), ftp.Message("assistant", row["fix"])))


@ftp.hookimpl
def ftp_loaders():
    return {"shelf": Shelf}


@ftp.hookimpl
def ftp_formatters():
    return {"ticket": Ticket}
'''


@pytest.fixture
def house(ftp_install, monkeypatch, tmp_path):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    ftp_install("house", HOUSE)
    return plugins.load()


def judged(where, loader):
    return {
        "provider": "local",
        "model": "house-judge",
        "loader": {"use": loader, "place": str(where), "device": "cpu", "dtype": "float32"},
    }


@pytest.mark.parametrize("use", ["judge", "pairwise"])
def test_a_local_judge_is_loaded_by_a_loader_of_others(ftp_recipe, house, ftp_tiny_model, ftp_answers, tmp_path, use):
    block = {"use": use, **judged(ftp_tiny_model, "shelf")}
    found = recipe.read(ftp_recipe(evaluate=[block]), house)
    assert recipe.read(ftp_recipe(evaluate=found.resolved()["evaluate"]), house) == found
    rows = [("Question?", "Right.", "one", "one two")]
    view = dataclasses.replace(ftp_answers(rows), directory=tmp_path)
    evaluation = found.evaluate[0].evaluate(view)
    assert evaluation.panel["judge"] == "house-judge" and evaluation.panel["unscored"] == 0
    requests = [json.loads(line) for line in (tmp_path / "judgments.jsonl").read_text().splitlines()]
    assert requests and all(line["error"] is None for line in requests)


def test_the_same_model_by_its_directory_judges_the_same(house, ftp_tiny_model, ftp_answers, tmp_path):
    from house import Shelf

    rows = [("Question?", "Right.", "one", "one two")]
    found = []
    for name, options in (
        ("a", {"model": str(ftp_tiny_model)}),
        ("b", {"model": "x", "loader": Shelf(place=str(ftp_tiny_model), device="cpu").named("shelf")}),
    ):
        (tmp_path / name).mkdir()
        view = dataclasses.replace(ftp_answers(rows), directory=tmp_path / name)
        judge = Judge(provider="local", rubric=["tone"], **options)
        found.append([m.tuned_scores for m in judge.evaluate(view).metrics])
    assert found[0] == found[1]
    plain, shelf = LocalModel(str(ftp_tiny_model)), LocalModel("x", Shelf(place=str(ftp_tiny_model)))
    assert plain.fingerprint == shelf.fingerprint != ""


def test_a_loader_is_for_a_local_judge_only(ftp, ftp_recipe, house, ftp_tiny_model):
    block = {
        **judged(ftp_tiny_model, "shelf"),
        "use": "judge",
        "provider": "openai",
        "base_url": "http://localhost:1/v1",
    }
    shown = ftp("check", str(ftp_recipe(evaluate=[block])))
    assert shown.code == 2 and "evaluate.0.loader: is for a judge in this process" in shown.err


@pytest.mark.parametrize("use", ["forgetting", "pairwise"])
@pytest.mark.parametrize("given", [{"format": {"use": "ticket", "question": "why"}}, {}])
def test_general_instructions_are_read_by_a_formatter_of_others(
    ftp_recipe, house, ftp_tiny_model, tmp_path, use, given
):
    question = "why" if given else "ask"
    (tmp_path / "general.jsonl").write_text(json.dumps({question: "a", "fix": "b"}) + "\n")
    local = {"provider": "local", "model": str(ftp_tiny_model)} if use == "pairwise" else {}
    block = {"use": use, "instructions": "general.jsonl", **local, **given}
    file = ftp_recipe(evaluate=[block, {"use": "exact_match"}])
    found = recipe.read(file, house).evaluate[0]
    [example] = found.own_evals()["general-instructions"]
    assert [message.content for message in example.messages] == ["a", "b"]
    assert found.format.used_as == ("ticket" if given else "auto")


@pytest.mark.parametrize("use", ["forgetting", "pairwise"])
def test_a_format_without_instructions_is_an_error(ftp, ftp_recipe, house, ftp_tiny_model, tmp_path, use):
    (tmp_path / "general.txt").write_text("a b\n")
    more = {"text": "general.txt"} if use == "forgetting" else {"provider": "local", "model": str(ftp_tiny_model)}
    block = {"use": use, "format": {"use": "ticket"}, **more}
    shown = ftp("check", "--no-data", str(ftp_recipe(evaluate=[block, {"use": "exact_match"}])))
    assert shown.code == 2 and "evaluate.0.format: is for the rows of `instructions:`; remove it" in shown.err
