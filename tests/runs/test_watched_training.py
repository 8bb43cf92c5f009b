"""Training that is watched: stopped, sent back, and its best state chosen, on a tiny model that really trains."""

import dataclasses
import json
import math

import pytest
import torch
from pydantic import PrivateAttr
from test_training import ROWS, job_of, load, metrics

import ftp
from ftp import pipeline, plugins, recipe
from ftp.lm.torch_generate import generate
from ftp.options import AnswerOptions
from ftp.runs.directory import RunDirectory
from ftp.runs.events import EventLog, done_until
from ftp.stages.dev_score import DevScore
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.engines.transformers import Transformers
from ftp_plugins.evaluators.exact_match import ExactMatch
from ftp_plugins.trainers.sft import SFT
from ftp_plugins.watchers.budget import Budget
from ftp_plugins.watchers.divergence import Divergence
from ftp_plugins.watchers.val_valley import ValValley


def watched(job, tmp_path, *watchers):
    """The job with these watchers, and the events that they and the trainer left."""
    directory = RunDirectory(tmp_path)
    log = EventLog(directory, watchers, lambda event, values: None)
    return dataclasses.replace(job, emit=log.emit), directory.events


class Once(ftp.Watcher):
    """Answers once, at a step."""

    step: int = 3
    """When."""
    answer: str = "stop"
    """What."""
    _answered: bool = PrivateAttr(default=False)

    def see(self, event):
        if event["event"] == "metric" and event["step"] == self.step and not self._answered:
            self._answered = True
            return ftp.Stop("enough") if self.answer == "stop" else ftp.RollBack("once more", factor=0.25)
        return None


def of(events, name, key):
    return [event[key] for event in events if event["event"] == name]


def test_a_stop_ends_training_with_the_best_state(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path)
    job, events = watched(job, tmp_path, Once(step=5))
    result = SFT(epochs=10, batch_size=4, learning_rate=1e-2).train(job)
    assert result.steps == 5
    assert of(events(), "metric", "step") == [1, 2, 3, 4, 5]
    assert of(events(), "watcher", "asks") == ["stop"]
    assert of(events(), "checkpoint", "step")[-1] == 5, "everything is saved"
    assert result.best_step in of(events(), "validation", "step")


def test_a_roll_back_goes_on_from_the_last_checkpoint_at_a_lower_rate(ftp_tiny_model, tmp_path):
    options = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0}
    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path / "plain")
    job, plain = watched(job, tmp_path / "plain")
    SFT(**options).train(job)

    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path / "back")
    job, events = watched(job, tmp_path / "back", Once(step=4, answer="back"))
    result = SFT(**options).train(job)
    assert of(events(), "rollback", "step") == [3]
    steps = of(events(), "metric", "step")
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert of(events(), "metric", "learning_rate") == pytest.approx([1e-2] * 4 + [2.5e-3] * 5)
    losses = of(events(), "metric", "loss")
    assert losses[:4] == of(plain(), "metric", "loss")[:4]
    assert losses[4] == losses[3], "the same weights on the same batch"
    assert losses[5] != of(plain(), "metric", "loss")[4], "from there on at another rate"
    assert result.steps == 8
    assert [event["step"] for event in done_until(events()) if event["event"] == "metric"] == list(range(1, 9))


def test_a_run_that_diverges_goes_back_once_then_stops_with_everything_saved(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, Full()), tmp_path, rows=ROWS * 4)
    job, events = watched(job, tmp_path, Divergence())
    result = SFT(epochs=30, batch_size=2, learning_rate=3.0, schedule="constant", warmup=0.02).train(job)
    asked = of(events(), "watcher", "asks")
    assert asked == ["roll back", "stop"]
    assert of(events(), "rollback", "factor") == [0.5]
    assert result.steps < 480
    assert all(bool(torch.isfinite(w).all()) for w in result.model.model.parameters())


def test_numbers_that_are_none_go_back_too(ftp_tiny_model, tmp_path):
    loaded = load(ftp_tiny_model, LoRA(r=4))
    job, _ = job_of(loaded, tmp_path)

    class Poison(ftp.Watcher):
        """Breaks the weights once."""

        _done: bool = PrivateAttr(default=False)

        def see(self, event):
            if event["event"] == "metric" and event["step"] == 2 and not self._done:
                self._done = True
                with torch.no_grad():
                    next(w for w in loaded.model.parameters() if w.requires_grad).fill_(math.nan)

    job, events = watched(job, tmp_path, Poison(), Divergence())
    result = SFT(epochs=4, batch_size=4, learning_rate=1e-3).train(job)
    assert "nan" in of(events(), "validation", "loss") + of(events(), "metric", "loss")
    assert of(events(), "rollback", "step") == [1]
    assert all(math.isfinite(event["loss"]) for event in done_until(events()) if "loss" in event)
    assert result.steps == 8
    assert all(bool(torch.isfinite(w).all()) for w in result.model.model.parameters())


def test_a_budget_is_kept_to(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path)
    job, events = watched(job, tmp_path, Budget(max_tokens=400))
    result = SFT(epochs=100, batch_size=4).train(job)
    tokens = of(events(), "metric", "tokens")
    assert tokens[-1] >= 400 > tokens[-2]
    assert result.steps == len(tokens)
    [reason] = of(events(), "watcher", "reason")
    assert f"{len(tokens)} of 200 steps" in reason


def test_a_valley_is_found_and_left(ftp_tiny_model, tmp_path):
    other = [("Name the shape of the moon.", "round, and bright, and far away"), ("Name a colour.", "any but those")]
    job, _ = job_of(load(ftp_tiny_model, Full()), tmp_path, validation=other)
    job, events = watched(job, tmp_path, ValValley())
    result = SFT(epochs=60, learning_rate=2e-3, batch_size=4, schedule="constant", evals_per_epoch=1).train(job)
    losses = of(events(), "validation", "loss")
    assert result.steps < 120
    floor = min(losses[1:])
    assert result.best_step == of(events(), "validation", "step")[losses.index(floor)]
    [reason] = of(events(), "watcher", "reason")
    assert f"step {result.best_step}" in reason
    kept = of(events(), "best", "loss")
    assert kept == [floor]


def test_the_best_state_can_be_that_of_an_evaluator(ftp_tiny_model, tmp_path):
    """The validation loss rises while more answers get right: by its answers a later state is the best."""
    loaded = load(ftp_tiny_model, Full())
    job, _ = job_of(loaded, tmp_path, validation=[*ROWS[:3], ("Say a word about the weather.", "sunshine and rain")])
    job, events = watched(job, tmp_path)
    score = DevScore([ExactMatch()], Transformers(max_new_tokens=40), loaded, job.corpus.validation)
    score.evaluators = {"exact_match": score.evaluators["ExactMatch"]}
    job = dataclasses.replace(job, score=score)
    result = SFT(
        epochs=40, learning_rate=5e-3, batch_size=4, schedule="constant", evals_per_epoch=0.25, best_by="exact_match"
    ).train(job)
    scores, losses = of(events(), "validation", "score"), of(events(), "validation", "loss")
    steps = of(events(), "validation", "step")
    assert scores[0] == 0
    best = steps.index(result.best_step)
    assert scores[best] == max(scores) > 0
    assert losses[best] > min(losses)
    said = generate(result.model, list(job.corpus.validation), AnswerOptions(max_new_tokens=40))
    right = [a.text == e.reference for a, e in zip(said, job.corpus.validation, strict=True)]
    assert sum(right) / len(right) == scores[best]


@pytest.mark.parametrize("speed", ["auto", "off"])
@pytest.mark.parametrize("adapter", [Full(), LoRA(r=4)], ids=["full", "lora"])
def test_the_model_answers_between_steps_as_it_does_afterwards(adapter, speed, ftp_tiny_model, tmp_path):
    """No layer of the training, nor its products in bfloat16, has a part in what is scored."""
    loaded = load(ftp_tiny_model, adapter)
    job, _ = job_of(loaded, tmp_path, validation=ROWS[:3])
    notes, states, logits = [], [], []
    score = DevScore([ExactMatch()], Transformers(max_new_tokens=6), loaded, job.corpus.validation, notes.append)

    def remembered(metric, rows):
        states.append({name: weight.detach().clone() for name, weight in loaded.model.state_dict().items()})
        logits.append(next_logits(loaded.model))
        return score("ExactMatch", rows)

    job = dataclasses.replace(job, score=remembered)
    SFT(epochs=4, batch_size=4, learning_rate=5e-3, best_by="exact_match", speed=speed).train(job)
    assert notes == [] and len(states) > 2
    for state, found in zip(states, logits, strict=True):
        loaded.model.load_state_dict(state)
        assert torch.equal(next_logits(loaded.model), found)


def test_slow_decoding_between_steps_is_a_note_in_the_run(ftp_tiny_model, tmp_path):
    loaded = load(ftp_tiny_model, Full())
    job, _ = job_of(loaded, tmp_path, validation=ROWS[:3])
    plain, notes = loaded.model.forward, []

    def opposite(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = -out.logits
        return out

    score = DevScore([ExactMatch()], Transformers(max_new_tokens=4), loaded, job.corpus.validation, notes.append)
    loaded.model.forward = opposite
    score("ExactMatch", 2)
    score("ExactMatch", 2)
    assert len(notes) == 1 and "the logits without padding differ" in notes[0]


def next_logits(model):
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0, -1]
    model.train(was_training)
    return found


def test_a_whole_run_has_its_watchers_and_its_choice(ftp_recipe, ftp_tiny_model, tmp_path):
    found = plugins.load()
    file = ftp_recipe(
        model={"id": str(ftp_tiny_model), "device": "cpu"},
        train={"use": "sft", "epochs": 4, "batch_size": 2, "learning_rate": 1e-3, "best_by": "exact_match"},
        answers={"max_new_tokens": 8},
        evaluate=[{"use": "exact_match"}],
    )
    checked = recipe.read(file, found)
    assert {watcher.used_as for watcher in checked.watch} == {"val_valley", "divergence", "over_optimisation"}
    run = pipeline.run(checked, found, file, tmp_path / "runs", pipeline.Progress())
    [plan] = [event for event in run.events if event["event"] == "plan"]
    assert plan["best_by"] == "exact_match"
    assert all("score" in event for event in run.events if event["event"] == "validation")
    assert [event["event"] for event in run.events][-1] == "end"
    assert not (run.directory / "checkpoints").exists()
    none = ftp_recipe(watch=[])
    assert recipe.read(none, found).watch == []


def test_best_by_names_an_evaluator_of_the_recipe(ftp_recipe):
    file = ftp_recipe(train={"use": "sft", "best_by": "exact_mach"}, evaluate=[{"use": "exact_match"}])
    with pytest.raises(ftp.FtpError, match=r"train\.best_by: no evaluator 'exact_mach' .*did you mean 'exact_match'"):
        recipe.read(file, plugins.load())


def test_best_by_takes_no_evaluator_that_has_data_of_its_own(ftp_recipe, tmp_path):
    (tmp_path / "general.jsonl").write_text('{"instruction": "Go.", "response": "Yes."}\n')
    own = {"use": "forgetting", "instructions": "general.jsonl"}
    file = ftp_recipe(train={"best_by": "forgetting.nll"}, evaluate=[{"use": "exact_match"}, own])
    with pytest.raises(ftp.FtpError) as raised:
        recipe.read(file, plugins.load())
    said = "train.best_by: 'forgetting' is evaluated on data of its own and can't score validation rows; known: exact"
    assert said in str(raised.value)

    # One of a name on its own doesn't stand in the way of another that isn't.
    judge = {"use": "pairwise", "provider": "local", "model": "m"}
    file = ftp_recipe(train={"best_by": "pairwise"}, evaluate=[judge, {**judge, "instructions": "general.jsonl"}])
    read = recipe.read(file, plugins.load())
    assert DevScore(read.evaluate, read.answers, None, []).evaluators == {"pairwise": read.evaluate[0]}


def test_several_sources_have_a_validation_loss_of_their_own(ftp_recipe, ftp_tiny_model, tmp_path):
    for name in ("a", "b"):
        # Some are too long, so that the rows left are not those of the corpus.
        rows = [
            {"instruction": f"{name} {n}?", "response": f"{name}{n}" * (40 if n % 3 == 0 else 1)} for n in range(20)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = ftp_recipe(
        model={"id": str(ftp_tiny_model), "device": "cpu"},
        data={
            "train": [
                {"path": str(tmp_path / f"{name}.jsonl"), "name": name, "format": {"use": "instruct"}}
                for name in ("a", "b")
            ],
            "validation": "20%",
        },
        train={"use": "sft", "max_length": 64, "overlong": "drop", "epochs": 1, "batch_size": 4},
    )
    found = plugins.load()
    run = pipeline.run(recipe.read(file, found), found, file, tmp_path / "runs", pipeline.Progress())
    first = next(event for event in run.events if event["event"] == "validation")
    assert set(first["by_source"]) == {"a", "b"}


def test_the_fall_back_is_loud(ftp_tiny_model, tmp_path, monkeypatch):
    from ftp_plugins.speed.torch_path import FastPath

    monkeypatch.setattr(FastPath, "why_not", staticmethod(lambda model, longest: "of the test"))
    job, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path)
    SFT(epochs=2, batch_size=4).train(job)
    assert metrics(events, "note", "text") == [
        "The fast path is off, because of the test; training uses TRL's slower path."
    ]
    assert metrics(events, "speed", "why_not") == ["of the test"]


@pytest.mark.parametrize("adapter", [LoRA(r=4), Full()], ids=["lora", "full"])
def test_fast_and_slow_go_the_same_way(ftp_tiny_model, tmp_path, adapter):
    found = {}
    for speed in ("auto", "off"):
        job, events = job_of(load(ftp_tiny_model, adapter, dtype="float32"), tmp_path / speed)
        options = {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "precision": "float32"}
        SFT(speed=speed, **options).train(job)
        found[speed] = metrics(events), metrics(events, key="grad_norm"), metrics(events, "validation")
    for fast, slow in zip(found["auto"], found["off"], strict=True):
        assert fast == pytest.approx(slow, rel=2e-4)
