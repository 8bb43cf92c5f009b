"""Tasks of one's own on a tiny model, and the whole way from the recipe. Skipped where lm_eval isn't installed."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ftp
from ftp import pipeline, plugins, recipe
from ftp.testing import Install, WriteRecipe, assert_component_ok
from ftp.testing.conformance import answers_view

pytest.importorskip("lm_eval")

HOME = Path(__file__).parents[1]
ANTONYMS = """
task: antonyms
dataset_path: json
dataset_kwargs: {data_files: {test: antonyms.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "The opposite of {{word}} is"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.5}
"""
PROSE = """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: prose.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
"""
WORDS = [("hot", "cold", "warm"), ("up", "down", "over"), ("old", "new", "aged"), ("late", "early", "slow")]
TEXTS = ["The parties agree.", "Notice is thirty days, in writing.", "Pay on time."]

# The libraries below warn about each other; none of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def installed(ftp_install: Install) -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ftp_install(project["name"], HOME / "ftp_lm_eval.py", entry_points=project["entry-points"]["ftp"])


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory with two tasks and their documents."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "tasks"
    directory.mkdir()
    rows = [{"word": word, "choices": [right, wrong], "label": 0} for word, right, wrong in WORDS]
    for name, text, documents in (
        ("antonyms", ANTONYMS, rows),
        ("prose", PROSE, [{"text": text} for text in TEXTS]),
    ):
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return directory


@pytest.fixture
def loaded(ftp_tiny_model: Path) -> ftp.LoadedModel:
    from ftp_plugins.loaders.huggingface import HuggingFace

    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu", dtype="float32")
    return loader.load(loader.describe())


def evaluator(**options: Any) -> ftp.Evaluator:
    from ftp_lm_eval import LmEval

    return LmEval(**options)


def test_it_is_a_sound_component() -> None:
    assert_component_ok(type(evaluator(tasks=["a"])), tasks=["a"])


def test_what_is_measured_is_what_the_model_says(tasks: Path, loaded: ftp.LoadedModel) -> None:
    import torch

    found = evaluator(tasks=["antonyms", "prose"], include=str(tasks)).measure(loaded)
    assert json.loads(json.dumps(found)) == found
    assert found["antonyms"]["version"] == "1.5" and len(set(found["antonyms"]["documents"])) == 4

    def log_likelihood(context: str, text: str) -> float:
        start = len(loaded.tokenizer(context)["input_ids"]) if context else 1
        ids = loaded.tokenizer(context + text, return_tensors="pt")["input_ids"]
        if not context:  # the harness puts one before running text, and scores the tokenizer's own
            ids = torch.cat([torch.tensor([[loaded.tokenizer.bos_token_id]]), ids], dim=1)
        with torch.inference_mode():
            odds = loaded.model(ids).logits[0].float().log_softmax(-1)
        return sum(float(odds[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))

    right = [
        float(
            log_likelihood(f"The opposite of {word} is", f" {one}")
            > log_likelihood(f"The opposite of {word} is", f" {other}")
        )
        for word, one, other in WORDS
    ]
    assert found["antonyms"]["figures"]["acc"] == {"higher_is_better": True, "scores": right}
    prose = found["prose"]["figures"]["word_perplexity"]
    assert prose["weights"] == [len(text.split()) for text in TEXTS] and not prose["higher_is_better"]
    assert prose["scores"] == pytest.approx([-log_likelihood("", text) / len(text.split()) for text in TEXTS], rel=1e-4)


def test_differences_are_paired_by_document(tasks: Path, loaded: ftp.LoadedModel) -> None:
    one = evaluator(tasks=["antonyms", "prose"], include=str(tasks))
    measured = one.measure(loaded)
    tuned = json.loads(json.dumps(measured))
    tuned["antonyms"]["figures"]["acc"]["scores"] = [1.0] * 4
    tuned["prose"]["figures"]["word_perplexity"]["scores"] = [1.0, 2.0, 3.0]
    view = dataclasses.replace(answers_view([]), base_measured=measured, tuned_measured=tuned)
    found = one.evaluate(view)
    assert [metric.name for metric in found.metrics] == ["antonyms acc", "prose word_perplexity, nats"]
    acc, prose = found.metrics
    assert acc.test == "McNemar, mid-p" and acc.tuned == 1
    assert prose.difference is not None and prose.difference.method == "paired ratio, t"
    assert prose.tuned == pytest.approx((1 * 3 + 2 * 6 + 3 * 3) / 12)
    assert found.n == 7 and found.notes[0] == "antonyms: version 1.5, 4 documents"
    tuned["prose"]["documents"][0] = "another"
    with pytest.raises(ftp.DataError, match="prose: its documents changed"):
        one.evaluate(dataclasses.replace(view, tuned_measured=tuned))
    with pytest.raises(ftp.ModelError, match="scores no eval set"):
        one.evaluate(answers_view([]))


def test_mistakes_are_told(tasks: Path, loaded: ftp.LoadedModel) -> None:
    with pytest.raises(ftp.DataError, match="no task 'antonym'; there are antonyms, prose"):
        evaluator(tasks=["antonym"], include=str(tasks)).measure(loaded)
    assert evaluator(tasks=["a"], include=str(tasks / "none")).problems()
    assert evaluator(tasks=["a"], include=str(tasks)).problems() == []


def test_a_whole_run(tasks: Path, ftp_recipe: WriteRecipe, ftp_tiny_model: Path, tmp_path: Path) -> None:
    file = ftp_recipe(
        model={"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"},
        data={"evals": None},
        evaluate=[{"use": "lm_eval", "tasks": ["antonyms", "prose"], "include": "tasks", "limit": 3}],
    )
    found = plugins.load()
    run = pipeline.run(recipe.read(file, found), found, file, tmp_path / "runs", pipeline.Progress())
    (evaluation,) = run.evaluations
    assert (evaluation.evaluator, evaluation.evals, evaluation.n) == ("lm_eval", "lm_eval", 6)
    assert all(metric.p_adjusted is not None for metric in evaluation.metrics)
    assert str(tasks / "antonyms.jsonl") in run.lock["data"]
    kept = {file.name for file in (run.directory / "answers").iterdir()}
    assert kept == {"base.0-lm_eval.json", "tuned.0-lm_eval.json"}
