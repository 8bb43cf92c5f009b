"""What watchers answer to the events of a run, how often they are wrong, and how their answers travel."""

import math
import random
from collections.abc import Mapping
from functools import cached_property

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftp
from ftp.files import finite
from ftp.runs.directory import RunDirectory
from ftp.runs.events import EventLog
from ftp.testing import assert_component_ok
from ftp_plugins.watchers.budget import Budget
from ftp_plugins.watchers.divergence import Divergence
from ftp_plugins.watchers.val_valley import ValValley, find_valley

NAN, INF = math.nan, math.inf


def metric(step, loss=1.0, grad_norm=1.0, **values):
    return {"event": "metric", "step": step, "loss": loss, "grad_norm": grad_norm, **values}


def validation(step, loss, **values):
    return {"event": "validation", "step": step, "loss": loss, **values}


def valley(floor=4, n=12, height=0.1):
    """Losses that fall up to `floor` and rise by `height` each from there on, with a ripple of 0.002."""
    falling = [2.0 + 0.5 * 0.5**at for at in range(floor + 1)]
    rising = [falling[-1] + height * at for at in range(1, n - floor)]
    return [loss + 0.002 * (-1) ** at for at, loss in enumerate(falling + rising)]


@pytest.mark.parametrize(
    ("component", "options"),
    [(ValValley, {}), (ValValley, {"action": "report"}), (Divergence, {}), (Budget, {"max_hours": 0.01})],
)
def test_components(component, options):
    assert_component_ok(component, **options)


class NeedsASource(ftp.Watcher):
    """Looks for what not every event has."""

    def see(self, event):
        return ftp.Stop("empty") if not event["by_source"] else None


class AnswersInWords(ftp.Watcher):
    """Answers with a word."""

    def see(self, event):
        return "stop" if event["event"] == "validation" else None


class GivesNoReason(ftp.Watcher):
    """Stops without a word."""

    def see(self, event):
        return ftp.Stop(" ") if event["event"] == "validation" else None


class SpeedsUp(ftp.Watcher):
    """Asks for a higher rate."""

    def see(self, event):
        return ftp.RollBack("faster", factor=2) if event["event"] == "validation" else None


class ForgetsWhatItMissed(ftp.Watcher):
    """Counts validations, and those of an earlier process not."""

    @cached_property
    def _seen(self):
        return []

    def see(self, event):
        self._seen.append(event["event"])
        return ftp.Stop("three") if self._seen.count("validation") == 3 else None

    def replay(self, event):
        pass


@pytest.mark.parametrize(
    ("component", "what"),
    [
        (NeedsASource, "raised KeyError: 'by_source'"),
        (AnswersInWords, "returned 'stop'"),
        (GivesNoReason, "without a reason"),
        (SpeedsUp, "asks for 2 times the rate"),
        (ForgetsWhatItMissed, "answers differently after a replay"),
    ],
)
def test_the_conformance_check_finds(component, what):
    with pytest.raises(AssertionError, match=what):
        assert_component_ok(component)


# --- how answers travel


class Says(ftp.Watcher):
    """Answers every validation."""

    asks: str
    """What it asks for."""
    seen: list = []
    """The events it saw."""

    def see(self, event: Mapping):
        self.seen.append(event)
        answers = {"stop": ftp.Stop("s"), "roll back": ftp.RollBack("r"), "nothing": ftp.Warn("w")}
        return answers[self.asks] if event["event"] in ("validation", "watcher") else None


@pytest.mark.parametrize(
    ("asks", "returned"),
    [
        (["nothing"], None),
        (["nothing", "roll back"], ftp.RollBack("r")),
        (["roll back", "nothing", "stop"], ftp.Stop("s")),
    ],
)
def test_every_answer_is_an_event_and_a_warning_is_not_returned(tmp_path, asks, returned):
    directory, shown = RunDirectory(tmp_path), []
    watchers = [Says(asks=what, seen=[]) for what in asks]
    log = EventLog(directory, watchers, lambda event, values: shown.append(event))
    assert log.emit("metric", step=1) is None
    assert log.emit("validation", step=3, loss=1.0) == returned
    written = [event for event in directory.events() if event["event"] == "watcher"]
    assert [event["asks"] for event in written] == asks and {event["step"] for event in written} == {3}
    assert shown == ["metric", "validation", *["watcher"] * len(asks)]
    for watcher in watchers:  # each is told all of them, and an answer to that goes nowhere
        assert [event["asks"] for event in watcher.seen if event["event"] == "watcher"] == asks


# --- val_valley


def answers(watcher, losses, every=10):
    """The answer to each validation of a run that validates before its first step and then `every` steps."""
    found = []
    for at, loss in enumerate(losses):
        for step in range(every * (at - 1) + 1, every * at + 1):
            assert watcher.see(metric(step, loss=1.0)) is None
        found.append(watcher.see(validation(every * at, loss)))
    return found


def test_a_valley_ends_training_and_says_where_its_floor_was():
    found = answers(ValValley(), valley())
    first = next(at for at, answer in enumerate(found) if answer)
    assert 7 <= first <= 9
    assert isinstance(found[first], ftp.Stop)
    assert found[first].reason.startswith("validation loss rises: lowest 2.0332 at step 40, 2.")
    assert "above the training loss, 1.0332 at the floor" in found[first].reason


def test_it_can_report_instead_and_does_so_once():
    found = [answer for answer in answers(ValValley(action="report"), valley(n=16)) if answer]
    assert [type(answer) for answer in found] == [ftp.Warn]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.8, 1.7, 1.9],
        [2.0, 1.5, 1.4, 1.9, 1.4, 1.41, 1.4, 1.405, 1.4],
        [2.0] * 12,
        [2.0 * 0.9**at for at in range(20)],
        [2.0, NAN, INF, 1.0],
        [2.0 - 0.1 * min(at, 5) + 0.001 * max(0, at - 5) for at in range(12)],
    ],
    ids=["too early", "one bad number", "constant", "falling", "no numbers", "too small to matter"],
)
def test_what_is_no_valley(losses):
    assert not any(answers(ValValley(), losses))


def test_a_source_that_rises_by_itself_is_reported_once():
    watcher, found = ValValley(), []
    for at, rising in enumerate(valley(n=14)):
        falling = 3.0 * 0.9**at
        found.append(watcher.see(validation(at, falling, by_source={"a.jsonl": rising, "b.jsonl": falling})))
    [answer] = [answer for answer in found if answer]
    assert isinstance(answer, ftp.Warn) and answer.reason.startswith("validation loss of a.jsonl rises: lowest 2.0332")


def test_a_score_decides_and_a_rising_loss_is_only_reported():
    def run(scores):
        watcher = ValValley()
        pairs = enumerate(zip(scores, valley(n=len(scores)), strict=True))
        found = [watcher.see(validation(at, loss, score=score, best_by="exact_match")) for at, (score, loss) in pairs]
        return [answer for answer in found if answer]

    [warning] = run([0.1 + 0.05 * at for at in range(14)])
    assert isinstance(warning, ftp.Warn) and "validation loss rises" in warning.reason
    kinds = run([1.5 - 0.3 * loss for loss in valley(n=14)])
    assert any(isinstance(a, ftp.Stop) and a.reason.startswith("exact_match falls: best 0.89") for a in kinds)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 11), st.booleans())
def test_resumed_or_rolled_back_is_as_if_uninterrupted(at, resumed):
    events = [e for n, loss in enumerate(valley()) for e in (validation(10 * n, loss), metric(10 * n + 1, loss=loss))]
    whole = ValValley()
    expected = [whole.see(event) for event in events]
    cut = next(n for n, event in enumerate(events) if event["event"] == "validation" and event["step"] == 10 * at) + 1
    watcher = ValValley()
    for event in events[:cut]:
        watcher.replay(finite(event)) if resumed else watcher.see(event)
    if not resumed:
        for wild in (metric(10 * at + 1, loss=9.0), validation(10 * at + 5, 0.1), validation(10 * at + 7, 9.0)):
            watcher.see(wild)
    watcher.see({"event": "resume" if resumed else "rollback", "step": 10 * at})
    assert [watcher.see(event) for event in events[cut:]] == expected[cut:]


def noisy(curve, noise, n, draw):
    """A curve of level 2 with normal noise, a share of the level."""
    level = {
        "flat": lambda at: 2.0,
        "falling": lambda at: 1.5 + math.exp(-3 * at / n),
        "plateau": lambda at: 2.0 + math.exp(-at / 2),
        "valley": lambda at: 1.5 + math.exp(-at / 1.5) + 2 * 2 * noise * max(0, at - 6),
    }[curve]
    return [level(at) + 2 * noise * draw.gauss(0, 1) for at in range(n + 1)]


def answered_at(losses):
    return next((m for m in range(4, len(losses)) if find_valley(range(m + 1), losses[: m + 1], 3, 0.01)), None)


@pytest.mark.parametrize("curve", ["flat", "falling", "plateau"])
@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
@pytest.mark.parametrize("n", [6, 12, 30])
def test_false_alarms_are_below_five_in_a_hundred_runs(curve, noise, n):
    draw = random.Random(f"{curve} {noise} {n}")
    alarms = sum(answered_at(noisy(curve, noise, n, draw)) is not None for _ in range(200))
    # At a true rate of 4% the chance of more than 17 of 200 is 0.1%.
    assert alarms <= 17


def going_along(rho, noise, n, draw):
    """A flat curve whose noise goes along with the value before (AR 1)."""
    value, losses = draw.gauss(0, 1), []
    for _ in range(n + 1):
        losses.append(2 + 2 * noise * value)
        value = rho * value + math.sqrt(1 - rho**2) * draw.gauss(0, 1)
    return losses


@pytest.mark.parametrize(
    ("rho", "n", "most"),
    # of 200 runs; without the allowance for a random walk 24, 37, 65 and 130
    [(0.5, 12, 20), (0.5, 30, 28), (0.9, 12, 55), (0.9, 30, 95)],
)
def test_noise_that_goes_along_with_itself_stops_less_often(rho, n, most):
    draw = random.Random(f"{rho} {n}")
    assert sum(answered_at(going_along(rho, 0.01, n, draw)) is not None for _ in range(200)) <= most


def test_noise_below_the_smallest_rise_never_stops():
    draw = random.Random(3)
    assert not any(answered_at(going_along(0.9, 0.001, 30, draw)) for _ in range(100))


def test_a_true_valley_is_found():
    """A rise of two standard deviations of the noise from one validation to the next, past a floor near the sixth."""
    draw = random.Random(1)
    found = [answered_at(noisy("valley", 0.01, 20, draw)) for _ in range(200)]
    assert None not in found and min(found) > 7
    assert sorted(found)[100] - 6 <= 7 and sorted(found)[180] - 6 <= 9


# --- divergence


def run(watcher, losses, norms=None):
    """Answers by step."""
    found = {}
    for step, loss in enumerate(losses, 1):
        answer = watcher.see(metric(step, loss=loss, grad_norm=norms[step - 1] if norms else 1.0))
        if answer:
            found[step] = answer
    return found


@pytest.mark.parametrize(
    "event",
    [metric(3, NAN), metric(3, INF), metric(3, "nan"), metric(3, 1.0, NAN), metric(3, 1.0, INF), validation(3, NAN)],
)
def test_what_is_no_number_rolls_back_once_and_then_stops(event):
    watcher = Divergence()
    first = watcher.see(event)
    assert isinstance(first, ftp.RollBack) and first.factor == 0.5 and "at step 3" in first.reason
    watcher.see({"event": "rollback", "step": 0, "factor": 0.5})
    second = watcher.see(event)
    assert isinstance(second, ftp.Stop) and "rolled back before" in second.reason


def test_a_roll_back_before_an_interruption_is_remembered():
    watcher = Divergence()
    watcher.replay({"event": "rollback", "step": 2, "factor": 0.5})
    watcher.see({"event": "resume", "step": 4})
    assert isinstance(watcher.see(metric(5, NAN)), ftp.Stop)


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda at, loss: 11.0 if at >= 100 else loss, range(103, 106)),
        (lambda at, loss: 11.0 if at >= 5 else loss, range(25, 26)),
        (lambda at, loss: loss * 60 if at == 100 else loss, range(101, 102)),
        (lambda at, loss: loss * 1.05 ** max(0, at - 100), range(105, 145)),
    ],
    ids=["jumps", "from the beginning", "one, far above", "climbs"],
)
def test_a_loss_that_jumps(change, within):
    draw = random.Random(2)
    losses = [change(at, (1 + 2 * math.exp(-at / 80)) * draw.lognormvariate(0, 0.2)) for at in range(200)]
    found = run(Divergence(), losses)
    assert min(found) in within and isinstance(found[min(found)], ftp.RollBack)


def test_gradient_norms_that_jump_for_five_steps():
    norms = [1 + 0.2 * (at % 3) for at in range(60)]
    norms[30] = 500.0
    assert not run(Divergence(), [1.0] * 60, norms)
    norms[50:] = [40.0] * 10
    assert min(run(Divergence(), [1.0] * 60, norms)) == 55
    assert not run(Divergence(), [1.0] * 60, [None] * 60) and not run(Divergence(), [1.0] * 60, [0.0] * 60)


def test_after_a_roll_back_the_steps_before_it_still_say_what_is_usual():
    watcher = Divergence()
    assert list(run(watcher, [1.0] * 60 + [9.0] * 3)) == [63]
    watcher.see({"event": "rollback", "step": 50, "factor": 0.5})
    assert not any(watcher.see(metric(step)) for step in range(51, 80))
    assert any(isinstance(watcher.see(metric(step, 9.0)), ftp.Stop) for step in range(80, 84))


@pytest.mark.parametrize("curve", ["flat", "falling", "memorised", "epochs"])
def test_the_noise_of_small_batches_is_no_divergence(curve):
    """Loss with lognormal noise of 0.3, gradient norms without a variance; 30 runs of 200 steps with warm-up."""
    level = {
        "flat": lambda at: 2.0,
        "falling": lambda at: 1 + 2 * math.exp(-at / 80),
        "memorised": lambda at: 2 * math.exp(-at / 25) + 0.002,
        "epochs": lambda at: 2 * 0.6 ** (at // 50),
    }[curve]
    draw = random.Random(curve)
    alarms = 0
    for _ in range(30):
        losses = [level(at) * draw.lognormvariate(0, 0.3) for at in range(200)]
        norms = [draw.paretovariate(1.5) * min(1, 0.2 + at / 20) for at in range(200)]
        alarms += bool(run(Divergence(), losses, norms))
    assert alarms <= 1


# --- budget


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_hours": 3}, "stopped at 3.0 h of 3.0 h: 120 of 400 steps done, about 7.0 h left"),
        ({"max_hours": 0.75}, "stopped at 45.0 min of 45.0 min: 30 of 400 steps done, about 9.2 h left"),
        ({"max_tokens": 5000}, "stopped at 5,000 of 5,000 tokens: 50 of 400 steps done, about 8.8 h left"),
        (
            {"max_cost": 5, "cost_per_hour": 2},
            "stopped at a cost of 5.00 of 5.00: 100 of 400 steps done, about 7.5 h left",
        ),
    ],
)
def test_a_budget_stops_and_says_what_was_left(options, reason):
    watcher = Budget(**options)
    assert watcher.problems() == [] and watcher.see({"event": "plan", "steps": 400}) is None
    found = [watcher.see(metric(step, seconds=90.0 * step, tokens=100 * step)) for step in range(1, 401)]
    assert next(answer for answer in found if answer) == ftp.Stop(reason)
    assert found[-1] is None  # nothing is left to stop


@pytest.mark.parametrize(
    ("options", "what"),
    [({}, "needs a limit"), ({"max_cost": 5}, "give both"), ({"max_hours": 1, "cost_per_hour": 5}, "give both")],
)
def test_a_budget_needs_a_limit(options, what):
    [problem] = Budget(**options).problems()
    assert what in problem


def test_a_limit_that_cannot_be_kept_is_said_once():
    watcher = Budget(max_hours=1, max_tokens=5)
    found = [watcher.see(metric(step, tokens=step)) for step in range(1, 6)]
    assert isinstance(found[0], ftp.Warn) and "seconds" in found[0].reason and found[1:4] == [None] * 3
    assert found[4] == ftp.Stop("stopped at 5 of 5 tokens: 5 steps done")
