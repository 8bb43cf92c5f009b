"""Contestants: a server and a small model answer beside base and tuned, and the tuned model is compared with each."""

import json

import pytest
from tests.plugins.judge_server import Say, prompt_of, serving

from ftp.records.answers import read_answers
from ftp.results import answers_file, contestant, finished
from ftp.runs.directory import RunDirectory


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))


def say(request):
    """Answer right where the question has an even number of characters."""
    return Say("Because." if len(prompt_of(request)) % 2 else "No.", usage=(20, 4))


@pytest.fixture
def recipe(ftp_recipe, ftp_tiny_model):
    def write(server, **overrides):
        model = {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"}
        big = {"use": "openai", "model": "big-1", "base_url": server.url}
        prices = {"price_per_million_input": 2.0, "price_per_million_output": 10.0}
        return ftp_recipe(
            model=model,
            evaluate=[{"use": "loss"}, {"use": "exact_match"}],
            answers={"max_new_tokens": 8, "price_per_hour": 1.0},
            **{"against": {"big": {**big, **prices}, "small": model}, **overrides},
        )

    return write


def run(ftp, file, root, *more):
    done = ftp("run", str(file), "--runs", str(root), *more)
    assert done.code == 0, done.err
    return RunDirectory(sorted((root / "small").iterdir())[-1])


def test_a_run_beside_a_server_and_a_small_model(ftp, recipe, tmp_path):
    with serving(say, models=("big-1",)) as server:
        directory = run(ftp, recipe(server), tmp_path / "runs")
        asked = len(server.asked)
        found = finished(directory)
        examples = len(found.views[0].examples)
        assert asked == examples
        assert {request["max_tokens"] for request in server.asked} == {8}  # as `answers:` says
        assert {request["temperature"] for request in server.asked} == {0}
        again = run(ftp, recipe(server), tmp_path / "runs", "--new")
        assert again.path != directory.path and len(server.asked) == asked  # every reply is kept

    by = {(e.against, e.evaluator): e for e in found.against}
    assert set(by) == {("big", "loss"), ("big", "exact_match"), ("small", "loss"), ("small", "exact_match")}
    assert by["big", "loss"].metrics == () and "gives no losses" in by["big", "loss"].notes[0]
    nll = by["small", "loss"].metrics[0]  # the small model is the base model
    base = next(e for e in found.evaluations if e.evaluator == "loss").metrics[0]
    assert nll.base_scores == base.base_scores and nll.tuned == base.tuned and nll.difference is not None
    big = by["big", "exact_match"].metrics[0]
    said, losses = read_answers(answers_file(directory, contestant("big"), found.views[0].name))
    assert losses == [] and {answer.text for answer in said} <= {"Because.", "No."}
    right = [
        float(a.text.casefold() == e.reference.casefold()) for a, e in zip(said, found.views[0].examples, strict=True)
    ]
    assert list(big.base_scores) == right
    usage = {usage.who: usage for usage in found.usage}
    assert set(usage) == {"base", "tuned", "big", "small"}
    assert usage["big"].tokens == 4 and usage["big"].cost == pytest.approx((20 * 2 + 4 * 10) / 1e6)
    assert usage["tuned"].cost == pytest.approx(usage["tuned"].seconds / 3600)

    page = (directory.path / "report.html").read_text()
    assert "Beside other models" in page and "big-1 by openai" in page
    lines = [json.loads(line) for line in (directory.path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == examples and {line["evaluator"] for line in lines} == {"against.big"}


def test_a_server_that_fails_stops_before_training_and_goes_on_later(ftp, recipe, tmp_path):
    sick = [True]

    def sometimes(request):
        first = prompt_of(request) == prompt_of(server.asked[0])
        return Say(status=400, message="overloaded") if sick[0] and first else say(request)

    with serving(sometimes, models=("big-1",)) as server:
        file = recipe(server)
        done = ftp("run", str(file), "--runs", str(tmp_path / "runs"))
        assert done.code != 0 and "run again" in done.err and "Traceback" not in done.err
        directory = next((tmp_path / "runs" / "small").iterdir())
        assert not (directory / "model").exists()
        before, sick[0] = len(server.asked), False
        assert ftp("run", str(file), "--runs", str(tmp_path / "runs")).code == 0
        assert 0 < len(server.asked) - before < before


SERVED = {"use": "openai", "model": "m", "base_url": "http://localhost:1/v1"}


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"against": {"other": {"use": "transformers"}}}, "against.other: 'transformers' has no model of its own"),
        ({"against": {"base": SERVED}}, "against.base: the base model"),
        ({"answers": SERVED}, "name it under `against:`"),
        ({"answers": {"samples": 4}}, "answers.samples: several answers to a prompt are the same"),
        ({"against": {"a": SERVED | {"samples": 3}}}, "answers are compared in pairs"),
        ({"against": {"a-b": {"use": "openai", "model": "m"}}}, "a-b"),
        ({"against": {"a" * 101: SERVED}}, "must be text that matches"),
        ({"against": {"a": SERVED | {"base_url": "http://u:hunter2@["}}}, "against.a.base_url: has a user name"),
        ({"against": {"a": SERVED | {"base_url": "http://x:99999999"}}}, ": not an address; it is like"),
        ({"against": {"a": {"use": "openay", "model": "m"}}}, "did you mean 'openai'"),
    ],
)
def test_bad_recipes(ftp, ftp_recipe, overrides, problem):
    done = ftp("check", str(ftp_recipe(**overrides)))
    assert done.code == 2 and problem in done.err, done.err
    assert "hunter2" not in done.err


def test_several_samples_are_clustered_by_prompt(ftp, ftp_recipe, ftp_tiny_model, tmp_path):
    model = {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"}
    answers = {"max_new_tokens": 4, "samples": 3, "temperature": 1.0}
    file = ftp_recipe(model=model, answers=answers, evaluate=[{"use": "loss"}, {"use": "exact_match"}])
    found = finished(run(ftp, file, tmp_path / "runs"))
    view = found.views[0]
    assert [e.id for e in view.examples[:3]] == [view.examples[0].id] * 3
    assert len(view.base_answers) == len(view.examples) == len(view.tuned_losses)
    match = next(e for e in found.evaluations if e.evaluator == "exact_match")
    mean, any_of = match.metrics
    assert any_of.name == "pass@3" and len(any_of.base_scores) * 3 == len(mean.base_scores)
    assert len(set(mean.clusters)) <= len(mean.base_scores) // 3
    best = [max(mean.tuned_scores[at : at + 3]) for at in range(0, len(mean.tuned_scores), 3)]
    assert list(any_of.tuned_scores) == best
