"""The trainer `dpo`: its losses are TRL's, and everything else is the shared loop's."""

import copy
from types import SimpleNamespace

import pytest
from preference_training import PAIRS, RATE, job_on, losses_of_trl

import ftp

KINDS = {
    "sigmoid": ({}, {}),
    "ipo": ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
    "hinge": ({"loss": "hinge"}, {"loss_type": ["hinge"]}),
    "robust": ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1}),
    "apo_zero": ({"loss": "apo_zero"}, {"loss_type": ["apo_zero"]}),
    "apo_down": ({"loss": "apo_down"}, {"loss_type": ["apo_down"]}),
    "with sft": ({"sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
}


CURVES = ("accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_log_prob", "rejected_log_prob")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))


def options(**given):
    from ftp_plugins.trainers.dpo import DPO

    usual = {"batch_size": 4, "learning_rate": RATE, "schedule": "constant", "warmup": 0.0, "beta": 0.5}
    return DPO(**{**usual, **given})


def pairs_job(tiny, home, **given):
    from ftp_plugins.formatters.preference import Preference

    return job_on(tiny, home, PAIRS, Preference(), **given)


def trls_losses(training, given, chosen, alike):
    """Train a copy of the model with TRL on the same batches and return the loss of each step."""
    from ftp_plugins.speed.torch_batches import Batches

    pairs = chosen.rows_of(training.job.corpus.train, training.loaded, training.job.ledger)
    order = [row for batch in Batches(pairs.lengths().tolist(), 4, 1, alike).of(0) for row in batch]
    entries = []
    for row in order:
        first = pairs.chosen[row].trained.index(True)
        entry = {"prompt_ids": pairs.chosen[row].input_ids[:first]}
        for name in ("chosen", "rejected"):
            tokens = getattr(pairs, name)[row]
            last = max(at for at, trained in enumerate(tokens.trained) if trained)
            entry[f"{name}_ids"] = tokens.input_ids[first : last + 1]
        entries.append(entry)
    model = copy.deepcopy(training.job.model.model)
    return losses_of_trl("DPOTrainer", "DPOConfig", training.job, model, entries, beta=0.5, **given)


@pytest.mark.parametrize(
    ("kind", "speed"), [*((kind, "auto") for kind in KINDS), ("sigmoid", "off"), ("with sft", "off")]
)
def test_losses_per_step_are_trls(ftp_tiny_model, tmp_path, kind, speed):
    ours, theirs = KINDS[kind]
    trainer = options(**ours, speed=speed, precision="float32")
    training = pairs_job(ftp_tiny_model, tmp_path, validation=0.0)
    expected = trls_losses(training, theirs, trainer, alike=speed == "off")
    trainer.train(training.job)
    assert len(expected) == 6 and expected[0] != pytest.approx(expected[-1], abs=1e-3)
    assert training.losses() == pytest.approx(expected, abs=1e-5)
    [said] = training.of("speed")
    assert bool(said["on"]) == bool(said.get("shared_tokens")) == (speed == "auto")


def test_components_keep_the_contract():
    from ftp.testing import assert_component_ok
    from ftp_plugins.evaluators.preference import Preference
    from ftp_plugins.trainers.dpo import DPO
    from ftp_plugins.trainers.kto import KTO

    for component in (DPO, KTO, Preference):
        assert_component_ok(component)


def test_losses_without_a_reference_are_trls(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    from ftp_plugins.trainers.torch_pair_losses import Answers, mean_loss, pair_losses

    torch.manual_seed(1)
    tokens = torch.tensor([[3.0, 9.0, 20.0], [5.0, 8.0, 2.0]])
    chosen, rejected = (Answers(-torch.rand(3) * 2 * count, count, None) for count in tokens)
    at = SimpleNamespace(type="cpu")
    for smoothing in (0.0, 0.1):
        simpo = options(loss="simpo", beta=2.0, simpo_margin=0.3, label_smoothing=smoothing)
        peer = SimpleNamespace(
            alpha=0.0, loss_type="simpo", simpo_gamma=0.3, beta=2.0, label_smoothing=smoothing,
            accelerator=SimpleNamespace(device=at.type),
        )  # fmt: skip
        expected = CPOTrainer.cpo_loss(peer, chosen.means, rejected.means)[0]
        assert pair_losses(simpo, chosen, rejected).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    orpo = options(loss="orpo", beta=0.2)
    peer = SimpleNamespace(beta=0.2, accelerator=SimpleNamespace(device=at.type))
    ratio = ORPOTrainer.odds_ratio_loss(peer, chosen.means, rejected.means)[0]
    nll = -chosen.log_probs.sum() / chosen.tokens.sum()
    assert float(mean_loss(orpo, chosen, rejected)) == pytest.approx(float(nll - ratio.mean()), abs=1e-5)


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_losses_without_a_reference_train(ftp_tiny_model, tmp_path, loss):
    training = pairs_job(ftp_tiny_model, tmp_path)
    options(loss=loss, beta=2.0, epochs=3).train(training.job)
    first, *_, last = training.of("validation")
    assert last["loss"] < first["loss"] and last["margin"] > first["margin"] and last["accuracy"] >= first["accuracy"]
    assert not [event for event in training.of("note") if "reference" in event["text"]]


def test_validation_has_the_trainers_own_measures_and_keeps_the_best(ftp_tiny_model, tmp_path):
    training = pairs_job(ftp_tiny_model, tmp_path)
    result = options(epochs=3, best_by="margin").train(training.job)
    first, *_, last = training.of("validation")
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3) and first["margin"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < first["loss"] and last["accuracy"] == 1 and last["score"] == last["margin"] > 0
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], rel=1e-4)
    assert all(set(CURVES) <= set(event) for event in [*training.of("metric"), first])
    assert training.of("plan")[0]["loss_unit"] == "mean over pairs"
    best = max((e for e in training.of("validation") if e["step"]), key=lambda event: event["margin"])
    assert result.best_step == best["step"] == training.of("best")[0]["step"]


def test_reference_is_that_of_the_untrained_model_and_cached_for_every_seed(ftp_tiny_model, tmp_path, monkeypatch):
    from ftp_plugins.trainers import torch_reference

    counted = []
    real = torch_reference.token_losses
    monkeypatch.setattr(torch_reference, "token_losses", lambda *a, **k: counted.append(1) or real(*a, **k))
    for home, seed in (("a", 1), ("b", 2)):
        training = pairs_job(ftp_tiny_model, tmp_path / home, validation=0.0, seed=seed)
        options().train(training.job)
        assert training.of("metric")[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert len(counted) == 1


def test_full_training_compares_with_its_own_first_weights(ftp_tiny_model, tmp_path):
    from ftp_plugins.adapters.full import Full

    training = pairs_job(ftp_tiny_model, tmp_path, adapter=Full())
    options(learning_rate=1e-3, epochs=2).train(training.job)
    first, *_, last = training.of("validation")
    assert first["margin"] == pytest.approx(0, abs=1e-4) and last["accuracy"] == 1 and last["margin"] > 0.1


class Killed(BaseException):
    """Ends a training as a kill does."""


def killed_at(name, step):
    def hear(event):
        if (event["event"], event.get("step")) == (name, step):
            raise Killed

    return hear


def assert_kills_change_nothing(tiny, home, kills, train, job):
    from ftp.runs.events import done_until

    whole = job(tiny, home / "whole")
    train(whole.job)
    training, events = None, []
    for kill in [*kills, None]:
        training = job(tiny, home / "killed", heard=killed_at(*kill) if kill else lambda event: None)
        try:
            train(training.job)
        except Killed:
            assert kill
        else:
            assert kill is None
        events += training.events
    for name in ("metric", "validation"):
        curve = {e["step"]: (e["loss"], e.get("margin")) for e in done_until(events) if e["event"] == name}
        assert curve == {e["step"]: (e["loss"], e.get("margin")) for e in whole.of(name)}
    return events


def test_killed_training_comes_to_the_same(ftp_tiny_model, tmp_path):
    kills = [("metric", 3), ("validation", 4), ("checkpoint", 8)]
    events = assert_kills_change_nothing(ftp_tiny_model, tmp_path, kills, options(epochs=2).train, pairs_job)
    assert len([event for event in events if event["event"] == "resume"]) == 3


@pytest.mark.slow
def test_twenty_kills_change_nothing(ftp_tiny_model, tmp_path):
    kills = [("metric", step) for step in range(2, 22)]
    trainer = options(epochs=5, evals_per_epoch=5)
    assert_kills_change_nothing(ftp_tiny_model, tmp_path, kills, trainer.train, pairs_job)


def test_plan_and_range_test_know_pairs(ftp_tiny_model, tmp_path):
    training = pairs_job(ftp_tiny_model, tmp_path)
    before = {name: w.clone() for name, w in training.job.model.model.named_parameters() if w.requires_grad}
    planned = options(epochs=2).plan(training.job)
    assert (planned["rows"], planned["steps"], planned["validation_rows"]) == (18, 10, 6) and planned["seconds"] > 0
    tested = options().range_test(training.job, 1e-5, 1e-1, 8)
    assert tested["start"] == pytest.approx(0.6931, abs=1e-3) and len(tested["rates"]) == len(tested["losses"])
    after = dict(training.job.model.model.named_parameters())
    assert all(bool((after[name] == weight).all()) for name, weight in before.items())


def test_pairs_are_settled_in_the_ledger(ftp_tiny_model, tmp_path):
    from ftp_plugins.formatters.preference import Preference

    long = " and so on" * 30
    rows = [
        *PAIRS[:6],
        {"prompt": "Long.", "chosen": "Short.", "rejected": "Different." + long},
        {"prompt": "Same." + long, "chosen": "One.", "rejected": "Two."},
    ]

    def settled(overlong):
        training = job_on(ftp_tiny_model, tmp_path / overlong, rows, Preference(), validation=0.0)
        trainer = options(overlong=overlong, max_length=120)
        kept = trainer.rows_of(training.job.corpus.train, training.loaded, training.job.ledger)
        return kept, {(row["fate"], row["reason"]): row["rows"] for row in training.job.ledger.totals()}

    with pytest.raises(ftp.DataError, match="max_length is 120"):
        settled("error")
    kept, totals = settled("drop")
    assert len(kept) == 6 and totals["dropped", "longer than 120 tokens"] == 2
    kept, totals = settled("truncate")
    assert len(kept) == 7 and totals["dropped", "no trained token"] == 1
    assert totals["truncated", "cut to 120 tokens"] == 1


def test_only_the_last_answer_is_trained(ftp_tiny_model, tmp_path):
    from ftp_plugins.formatters.preference import Preference

    turns = "\n\nHuman: Hello\n\nAssistant: Good day.\n\nHuman: Double 2.\n\nAssistant:"
    rows = [{"chosen": f"{turns} 4.", "rejected": f"{turns} 5{n}."} for n in range(4)]
    training = job_on(ftp_tiny_model, tmp_path, rows, Preference(), validation=0.0)
    pairs = options().rows_of(training.job.corpus.train, training.loaded, training.job.ledger)
    decode = training.loaded.tokenizer.decode
    for tokens, answer in ((pairs.chosen[0], "4."), (pairs.rejected[0], "5")):
        said = decode([id for id, on in zip(tokens.input_ids, tokens.trained, strict=True) if on])
        assert said.strip().startswith(answer) and "Good day" not in said and "Good day" in decode(tokens.input_ids)
