"""The watchers of preference training: over-optimisation, and a valley of the accuracy."""

import pytest

import ftp as library
from ftp.testing import assert_component_ok
from ftp_plugins.watchers.over_optimisation import OverOptimisation
from ftp_plugins.watchers.val_valley import ValValley


def seen(watcher, curve):
    """Return the answers of a watcher to validations with these margins and chosen log-probabilities."""
    events = [
        {"event": "validation", "step": step, "loss": 0.5, "margin": margin, "chosen_log_prob": chosen}
        for step, (margin, chosen) in enumerate(curve)
    ]
    return [watcher.see(event) for event in events]


RUNAWAY = [(0.0, -100.0), (0.5, -104.0), (1.0, -108.0), (1.5, -115.0), (2.0, -120.0)]


def test_component():
    assert_component_ok(OverOptimisation)


def test_margin_that_grows_on_less_likely_answers_is_reported_once():
    answers = seen(OverOptimisation(), RUNAWAY)
    assert [type(answer) for answer in answers] == [type(None)] * 3 + [library.Warn, type(None)]
    assert "over-optimisation" in answers[3].reason and "sft_weight" in answers[3].reason
    assert isinstance(seen(OverOptimisation(action="stop"), RUNAWAY)[3], library.Stop)


@pytest.mark.parametrize(
    "curve",
    [
        [(step / 2, -100.0 + step) for step in range(8)],
        [(0.5, -100.0 - 5 * step) for step in range(8)],
        [(step / 2, -100.0 - 0.1 * step) for step in range(8)],
    ],
    ids=["chosen grows", "margin stays", "a small fall"],
)
def test_healthy_training_is_left_alone(curve):
    assert not any(seen(OverOptimisation(), curve))


def test_what_a_roll_back_undid_is_forgotten():
    watcher = OverOptimisation()
    assert any(seen(watcher, RUNAWAY))
    watcher.see({"event": "rollback", "step": 0})
    assert not any(seen(watcher, [(0.0, -100.0)] * 4))
    assert watcher.see({"event": "validation", "step": 9, "loss": 0.5}) is None


def test_val_valley_watches_the_named_signal():
    accuracy = [0.5, 0.6, 0.7, 0.8, 0.78, 0.74, 0.70, 0.66, 0.62, 0.58]
    events = [{"event": "validation", "step": n, "loss": 1 / (n + 1), "accuracy": a} for n, a in enumerate(accuracy)]
    assert not any(ValValley().see(event) for event in events)
    watcher = ValValley(signal="accuracy")
    answers = [answer for event in events if (answer := watcher.see(event))]
    assert isinstance(answers[0], library.Stop)
    assert answers[0].reason.startswith("accuracy falls: best 0.8000 at step 3")


def test_signal_that_the_trainer_does_not_measure_is_refused(ftp, ftp_recipe):
    file = ftp_recipe(watch=[{"use": "val_valley", "signal": "accuracy"}])
    outcome = ftp("check", str(file))
    assert outcome.code == 2 and "signal: the trainer 'sft' measures loss" in outcome.err
