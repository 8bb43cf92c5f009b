"""Whether the specialist is still a generalist: what is read, what is told, and the whole way on a tiny model."""

import dataclasses
import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from ftp import DataError, Ledger, Message, TokenLoss, recipe
from ftp.cli import cli
from ftp.data.examples import read_examples
from ftp.errors import RecipeError
from ftp.plugins import load
from ftp.records.answers import read_answers
from ftp.testing import assert_component_ok
from ftp.types import EvalView
from ftp_plugins.commands.compare.pairing import compare
from ftp_plugins.evaluators.exact_match import ExactMatch
from ftp_plugins.evaluators.forgetting import Forgetting
from ftp_plugins.evaluators.numbers import number
from ftp_plugins.loaders.huggingface import HuggingFace

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXT = [f"Sentence {n} says that {n + 1} birds of kind {n % 7} sat on wire {n * 3} at night.\n" for n in range(40)]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "general.txt").write_text("".join(TEXT))
    return tmp_path / "general.txt"


@pytest.fixture
def instructions(tmp_path):
    rows = [{"instruction": f"Name the capital of country {n}.", "output": f"City {n}."} for n in range(6)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "general.jsonl"


def ftp(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# --- what is read ----------------------------------------------------------------------------------------------------


def test_it_is_a_sound_component(text, instructions):
    assert_component_ok(Forgetting, text=str(text))
    assert_component_ok(Forgetting, instructions=str(instructions), window=30)


def test_windows_follow_one_another_and_nothing_is_lost_but_the_end(text):
    windows = Forgetting(text=str(text), window=60).own_evals()["general-text"]
    assert [len(window.text.split()) for window in windows] == [60] * 10
    assert "\n".join(window.text for window in windows) == text.read_text().strip()
    few = Forgetting(text=str(text), window=60, max_windows=3).own_evals()["general-text"]
    assert [window.text for window in few] == [windows[at].text for at in (0, 3, 6)]


def test_a_line_that_is_longer_than_a_window_is_cut(tmp_path):
    (tmp_path / "long.txt").write_text(" ".join(f"w{n}" for n in range(107)))
    windows = Forgetting(text=str(tmp_path / "long.txt"), window=25).own_evals()["general-text"]
    assert [len(window.text.split()) for window in windows] == [25] * 4


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("text", b"A few words.\n", "too little text for the evaluator 'Forgetting': 400 words are needed"),
        ("text", b"\xff\xfe", "can't be read as UTF-8 text"),
        ("instructions", b'{"instruction": "Go.", "output": "Yes."}\nnot json\n', "general.jsonl:2: "),
        ("instructions", b'{"question": "Go."}\n', "no format fits any of 1 row"),
        ("instructions", b"", "no row to detect the format from"),
        ("instructions", b"\xff\xfe\n", "general.jsonl:1: "),
        (
            "instructions",
            b'{"prompt": "Go.", "chosen": "Yes.", "rejected": "No."}\n',
            "a preference; instructions with",
        ),
    ],
)
def test_what_cant_be_read_is_told(tmp_path, name, content, what):
    file = tmp_path / "general.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError) as raised:
        Forgetting(**{name: str(file)}).own_evals()
    assert what in str(raised.value)


def test_a_recipe_is_checked(ftp_recipe, text):
    def said(**options):
        with pytest.raises(RecipeError) as raised:
            recipe.read(ftp_recipe(evaluate=[{"use": "exact_match"}, {"use": "forgetting", **options}]), load())
        return str(raised.value)

    assert "needs `text:` or `instructions:`" in said()
    assert "evaluate.1.text: " in said(text="nowhere.txt") and "no such file" in said(text="nowhere.txt")
    alone = {"evaluate": [{"use": "forgetting", "text": "general.txt"}]}
    with pytest.raises(RecipeError, match="no evaluator reads these"):
        recipe.read(ftp_recipe(**alone), load())
    found = recipe.read(ftp_recipe(**alone, data={"evals": None}), load())
    assert found.evaluate[0].text == str(text)
    assert [curator.used_as for curator in found.data.curate] == ["decontaminate"]  # what it brings is guarded too


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rises", "note"),
    [
        # deviation 0.08165, error 0.02887; t(7) 2.3646
        ([0.5, 0.6, 0.4, 0.5] * 2, "forgot: the loss went up by +0.500 nats per token [+0.437, +0.563]"),
        ([-0.5, -0.6, -0.4, -0.5] * 2, "no evidence of forgetting: the loss went down, -0.500 nats per token"),
        ([0.5, -0.5, 0.4, 0.1] * 2, "no evidence of forgetting (n=8 is too small to detect less than 0.4"),
        ([0.5, 0.6, 0.4, 0.5], "no evidence of forgetting (4 examples can't tell)"),
        ([0.5], "no evidence of forgetting (too little for an interval)"),
    ],
)
def test_the_verdict_in_words(rises, note):
    base = [TokenLoss(20.0, 10) for _ in rises]
    tuned = [TokenLoss(20.0 + 10 * rise, 10) for rise in rises]
    evaluator = Forgetting(text="t")
    found = evaluator.evaluate(EvalView("general-text", [], [], [], base, tuned))
    assert evaluator.conclude(found)[0].startswith(note)
    nll, perplexity = found.metrics
    assert not nll.higher_is_better and perplexity.tuned == pytest.approx(math.exp(nll.tuned))


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(ftp_recipe, ftp_tiny_model, tmp_path, monkeypatch):
    """A run on general data, with more rows to train on."""
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))

    def start(name="small", more="", **options):
        file = ftp_recipe(
            name=name,
            model={"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu", "dtype": "float32"},
            answers={"max_new_tokens": 4},
            train={"learning_rate": 2e-2},
            evaluate=[{"use": "exact_match"}, {"use": "forgetting", "window": 60, **options}],
        )
        with (tmp_path / "train.jsonl").open("a") as stream:
            stream.write(more)
        result = ftp("run", file, "--runs", tmp_path / "runs")
        assert result.exit_code == 0, (result.output, result.exception)
        return max((tmp_path / "runs").glob(f"{name}/2*"))

    return start


def test_both_models_are_asked_and_only_this_evaluator_sees_it(run, text, instructions, ftp_tiny_model):
    directory = run(text="general.txt", instructions="general.jsonl")
    found = json.loads((directory / "evaluation.json").read_text())
    assert [(e["evaluator"], e["evals"]) for e in found] == [
        ("exact_match", "heldout"), ("forgetting", "general-text"), ("forgetting", "general-instructions"),
    ]  # fmt: skip
    assert [e["n"] for e in found] == [4, 10, 6]
    assert found[1]["notes"][0].startswith(("forgot", "no evidence of forgetting"))
    said = pq.read_table(directory / "answers" / "tuned-general-instructions.parquet").to_pylist()
    assert [row["answer"] for row in said] == [None] * 6

    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu", dtype="float32")
    loaded = loader.load(loader.describe())
    windows = read_examples(directory / "data" / "eval-general-text.arrow")
    _, losses = read_answers(directory / "answers" / "base-general-text.parquet")
    for window, loss in zip(windows, losses, strict=True):
        ids = loaded.tokenizer(window.text, return_tensors="pt")["input_ids"]
        assert loss.tokens == ids.shape[1] - 1  # a window has no end
        with torch.inference_mode():
            assert loss.nll == pytest.approx(float(loaded.model(ids, labels=ids).loss) * loss.tokens, rel=1e-4)

    lock = json.loads((directory / "run.lock.json").read_text())
    assert {Path(file).name for file in lock["data"]} >= {"general.txt", "general.jsonl"}
    page = (directory / "report.html").read_text()
    assert "general-text" in page


def test_general_rows_are_kept_out_of_training(run, instructions):
    question, answer = "Name every capital that you know of in the far north.", "There are only two."
    with instructions.open("a") as stream:
        stream.write(json.dumps({"instruction": question, "output": answer}) + "\n")
    row = {"instruction": question, "context": "", "response": answer}
    directory = run(more=json.dumps(row) + "\n", instructions="general.jsonl")
    ledger = Ledger.read(directory / "ledger.parquet")
    assert ledger.row("train.jsonl:13")["reason"] == "leak: general-instructions"
    assert [found["other"] for found in ledger.findings("train.jsonl:13")] == ["general.jsonl:7"]
    assert ledger.row("general.jsonl:7")["split"] == "eval:general-instructions"
    page = (directory / "report.html").read_text()
    verdict = page[page.index('<section id="verdict"') : page.index("</section>", page.index('<section id="verdict"'))]
    assert "decontaminate dropped 1 rows that share text with eval rows (leak 1)." in verdict


def test_runs_with_general_text_are_evaluated_again_and_compared(run, text):
    first = run(text="general.txt")
    again = ftp("eval", first)
    assert again.exit_code == 0, (again.output, again.exception)
    [place] = first.glob("evals/2*")
    assert (place / "evaluation.json").read_text() == (first / "evaluation.json").read_text()
    found, _ = compare([first, place])
    assert ("general-text", "forgetting", "nll") in [(c.evals, c.evaluator, c.metric.name) for c in found]
    assert all(c.metric.base == c.metric.tuned for c in found)


def test_a_changed_text_is_another_run(run, text):
    first = run(text="general.txt")
    assert run(text="general.txt") == first
    text.write_text("".join(reversed(TEXT)))
    assert run(text="general.txt") != first


def test_an_eval_set_of_the_same_name_is_refused(ftp_recipe, ftp_tiny_model, text, tmp_path):
    file = ftp_recipe(
        model={"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"},
        data={"evals": {"heldout": None, "general-text": {"path": "heldout.jsonl", "format": {"use": "instruct"}}}},
        evaluate=[{"use": "loss"}, {"use": "forgetting", "text": "general.txt"}],
    )
    said = str(ftp("run", file, "--runs", tmp_path / "runs").exception)
    assert said == "data.evals.general-text: an evaluator brings an eval set of this name; give yours another name"
    twice = ftp_recipe(
        model={"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"},
        evaluate=[{"use": "loss"}, *[{"use": "forgetting", "text": "general.txt", "window": n} for n in (50, 90)]],
    )
    said = str(ftp("run", twice, "--runs", tmp_path / "runs").exception)
    assert (
        "'forgetting' brings an eval set 'general-text', and another evaluator brings one with other examples" in said
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
def test_wikitext_gives_many_windows():
    windows = Forgetting(text=str(DATA / "wikitext2" / "valid.txt")).own_evals()["general-text"]
    words = [len(window.text.split()) for window in windows]
    assert len(windows) == 500 and min(words) >= 200 and max(words) < 600


# --- numbers in exact match ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        *[("1,200", "1200", True), ("$18", "18.0", True), ("-$3", "$-3", True), ("40%", "40", True)],
        *[("1,000,000.50", "1000000.5", True), (".5", "0.5", True), ("7.", "7", True), ("\u22122", "-2", True)],
        *[("12", "-12", False), ("1,2", "12", False), ("12,34", "1234", False), ("18 dollars", "18", False)],
        *[("1,200", "12000", False), ("10" * 20 + "1", "10" * 20 + "2", False), ("none", "None", True)],
    ],
)
def test_numbers_are_compared_by_value(ftp_answers, one, other, same):
    view = ftp_answers([("q", one, other, other)] * 2)
    assert ExactMatch(numbers=True).evaluate(view).metrics[0].tuned_scores == (float(same),) * 2
    if number(one) is not None and one != other:
        assert ExactMatch().evaluate(view).metrics[0].tuned == 0


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(("numbers", "differ"), [(True, 0), (False, 10)])
def test_the_grader_agrees_with_people_on_all_of_gsm8k(ftp_answers, numbers, differ):
    lines = (DATA / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    rows = [(row["question"], row["ground_truth"], row[model]) for row in map(json.loads, lines) for model in models]
    [example] = ftp_answers([("q", "r", "", "")]).examples
    grader = ExactMatch(pattern=r"^A: (.+)$", numbers=numbers)
    wrong = 0
    for _, reference, answer in rows:
        asked = dataclasses.replace(example, messages=(Message("user", "q"), Message("assistant", reference)))
        wrong += grader.score(asked, answer["solution"]).value != answer["is_correct"]
    assert (len(rows), wrong) == (5276, differ)
