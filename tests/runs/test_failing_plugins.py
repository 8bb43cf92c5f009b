"""A plugin that fails in each of its methods: the message names it, what is kept, and no traceback is shown."""

import json

import pytest

METHODS = {
    "formatters": ("ftp_plugins.formatters.pairs.Instruct", ["format", "settle"]),
    "curators": ("ftp_plugins.curators.dedupe.Dedupe", ["curate"]),
    "loaders": ("ftp_plugins.loaders.huggingface.HuggingFace", ["describe", "load_tokenizer", "load"]),
    "adapters": ("ftp_plugins.adapters.lora.LoRA", ["prepare", "apply", "save"]),
    "trainers": ("ftp_plugins.trainers.sft.SFT", ["peak_rate", "tokenise", "train"]),
    "watchers": ("ftp.Watcher", ["see"]),
    "evaluators": ("ftp.Evaluator", ["check", "files", "own_evals", "measure", "score", "evaluate"]),
    "reporters": ("ftp.Reporter", ["report"]),
}
"""Of each kind a class to break, and the methods that a run calls."""
NEEDED = {
    "watchers": "def see(self, event): return None",
    "evaluators": "def score(self, example, answer): return 1.0",
    "reporters": "def report(self, run): return run.directory",
}
"""What a component of a kind must define, if it is not what is broken."""
SOURCE = '''
import math
from pathlib import Path

import ftp
from {module} import {base}


class Broken({base}):
    """Breaks."""

    {needed}

    def {method}(self, *arguments, **named):
        {body}


@ftp.hookimpl
def ftp_{kind}():
    return {{"broken": Broken}}
'''


@pytest.fixture
def run(ftp, ftp_install, ftp_recipe, ftp_tiny_model, tmp_path, monkeypatch):
    """Run a recipe that uses a component one of whose methods has this body."""
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))

    def start(kind, method, body, *options, command="run"):
        module, _, base = METHODS[kind][0].rpartition(".")
        needed = NEEDED.get(kind, "")
        source = SOURCE.format(module=module, base=base, needed=needed, method=method, body=body, kind=kind)
        ftp_install("acme-broken", source)
        model = {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"}
        block = {
            "formatters": {"data": {"train": [{"path": "train.jsonl", "format": {"use": "broken"}}]}},
            "curators": {"data": {"curate": [{"use": "broken"}]}},
            "loaders": {"model": {**model, "use": "broken"}},
            "adapters": {"adapter": {"use": "broken", "r": 4}},
            "trainers": {"train": {"use": "broken", "epochs": 1, "batch_size": 4}},
            "watchers": {"watch": [{"use": "broken"}]},
            "evaluators": {"evaluate": [{"use": "exact_match"}, {"use": "broken"}]},
            "reporters": {"report": [{"use": "broken"}]},
        }[kind]
        file = ftp_recipe(**{"model": model, "answers": {"max_new_tokens": 2}, **block})
        return ftp(command, file.name, *options)

    return start


def events(tmp_path):
    return [
        json.loads(line) for file in tmp_path.glob("runs/*/*/events.jsonl") for line in file.read_text().splitlines()
    ]


def assert_told(outcome, *said):
    assert outcome.code == 2, outcome.out + outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    for words in said:
        assert words in outcome.err, outcome.err


CASES = [(kind, method) for kind, (_, methods) in METHODS.items() for method in [*methods, "problems"]]


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_an_exception_names_plugin_component_and_method(run, tmp_path, kind, method):
    outcome = run(kind, method, "raise ZeroDivisionError('by naught')")
    assert_told(outcome, "'broken'", "ZeroDivisionError: by naught")
    if method == "format":  # the row is named, which says more
        return
    called = {"score": "evaluate", "peak_rate": "warnings"}.get(method, method)  # what a run calls, and that calls it
    assert f"{kind[:-1]} 'broken' of acme-broken: {called} failed: ZeroDivisionError: by naught (" in outcome.err
    if events(tmp_path):
        assert "Kept: " in outcome.err or "Nothing is done yet" in outcome.err
        assert "ftp resume runs/small/" in outcome.err
    if method not in ("save", "report"):
        assert [event for event in events(tmp_path) if event["event"] == "metric"] == [], "before training"


WRONG = {
    "a formatter's None": ("formatters", "format", "return None", "returned NoneType, not an Example"),
    "a curator's None": ("curators", "curate", "return None", "curate returned NoneType, not Corpus"),
    "a request": ("loaders", "describe", "return {}", "describe returned dict, not ModelRequest"),
    "a tokenizer": ("loaders", "load_tokenizer", "return 'tokenizer'", "load_tokenizer returned str, not "),
    "a loader's None": ("loaders", "load", "return None", "load returned NoneType, not LoadedModel"),
    "a prepared request": ("adapters", "prepare", "return None", "prepare returned NoneType, not ModelRequest"),
    "an adapter's None": ("adapters", "apply", "return None", "apply returned NoneType, not LoadedModel"),
    "nothing trains": (
        "adapters",
        "apply",
        "arguments[0].model.requires_grad_(False); return arguments[0]",
        "apply returned a model in which nothing trains",
    ),
    "a trainer's None": ("trainers", "train", "return None", "train returned NoneType, not TrainResult"),
    "a watcher's words": ("watchers", "see", "return 'stop'", "see returned str, not "),
    "no reason": ("watchers", "see", "return ftp.Stop('')", "without a reason"),
    "no score": ("evaluators", "score", "return None", "evaluate failed: TypeError"),
    "NaN everywhere": ("evaluators", "score", "return math.nan", "gave no score that is a number"),
    "an evaluator's None": ("evaluators", "evaluate", "return None", "evaluate returned NoneType, not Evaluation"),
    "too few scores": (
        "evaluators",
        "evaluate",
        "return ftp.Evaluation((ftp.paired_metric('few', [1, 0], [1, 1]),), n=4)",
        "evaluate gave 'few' 2 and 2 scores; one for each of the 4 examples is needed",
    ),
    "a measure": ("evaluators", "measure", "return 3", "measure returned int, not Mapping"),
    "eval sets": ("evaluators", "own_evals", "return []", "own_evals returned list, not Mapping"),
    "a reporter's None": ("reporters", "report", "return None", "report returned NoneType, not Path"),
    "no report": ("reporters", "report", "return Path('nowhere')", "report returned nowhere, and nothing is there"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_return_is_named(run, what):
    kind, method, body, said = WRONG[what]
    assert_told(run(kind, method, body), "'broken'", said)


OTHER_COMMANDS = {
    "update_scale": ("adapters", "check", "--set", "train.learning_rate=0.5"),
    "save": ("adapters", "plan"),
    "plan": ("trainers", "plan"),
    "range_test": ("trainers", "lr-find", "--steps", "10"),
    "peak_rate": ("trainers", "lr-find", "--steps", "10"),
    "curate": ("curators", "data"),
}
"""Of methods that other commands call as well, or alone: the kind, the command, and its options."""


@pytest.mark.parametrize("method", OTHER_COMMANDS)
def test_other_commands_name_what_fails_too(run, ftp, method):
    kind, command, *options = OTHER_COMMANDS[method]
    outcome = run(kind, method, "raise ZeroDivisionError('by naught')", *options, command=command)
    if command == "data":
        outcome = ftp("data", "check", "recipe.yaml")
    assert_told(outcome, f"{kind[:-1]} 'broken' of acme-broken: ", " failed: ZeroDivisionError: by naught (")


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("plan", "return 3", "plan returned int, not "),
        ("range_test", "return 'up'", "range_test returned str, not "),
    ],
)
def test_wrong_returns_are_named_by_other_commands(run, method, body, said):
    kind, command, *options = OTHER_COMMANDS[method]
    assert_told(run(kind, method, body, *options, command=command), "trainer 'broken' of acme-broken: ", said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ZeroDivisionError('by naught')", "restore failed: ZeroDivisionError: by naught ("),
        ("return 3", "restore returned int, not "),
    ],
)
def test_an_adapter_that_cant_restore_is_named_by_eval(run, ftp, tmp_path, body, said):
    trained = run("adapters", "restore", body)
    assert trained.code == 0, trained.err
    (place,) = tmp_path.glob("runs/*/*/run.lock.json")
    assert_told(ftp("eval", str(place.parent)), "adapter 'broken' of acme-broken: ", said)


def test_a_reporters_bug_shows_before_training_and_ends_nothing(run, tmp_path):
    outcome = run("reporters", "report", "raise ZeroDivisionError('by naught')")
    assert_told(outcome, "the trained model", "the evaluation")
    names = [event["event"] for event in events(tmp_path)]
    (tried,) = (at for at, e in enumerate(events(tmp_path)) if "tried before training" in str(e.get("text")))
    assert tried < names.index("metric")
    assert "reporter 'broken' of acme-broken: report failed" in events(tmp_path)[tried]["text"]


def test_an_evaluator_that_fails_on_what_the_tuned_model_says_loses_nothing(run):
    body = "return ftp.Evaluation(()) if arguments[0].directory is None else 1 / 0"
    outcome = run("evaluators", "evaluate", body)
    assert_told(outcome, "evaluate failed: ZeroDivisionError", "the trained model, the tuned model's answers")


def test_a_traceback_is_shown_when_asked_for(run):
    outcome = run("curators", "curate", "raise ZeroDivisionError('by naught')", "--traceback")
    assert outcome.code == 2
    assert "Traceback" in outcome.err and "acme_broken.py" in outcome.err
