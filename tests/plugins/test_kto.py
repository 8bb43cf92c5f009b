"""The trainer `kto`: its loss is TRL's, and everything else is the shared loop's."""

import copy

import pytest
from preference_training import FEEDBACK, RATE, job_on, losses_of_trl
from test_dpo import assert_kills_change_nothing

import ftp


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))


def options(**given):
    from ftp_plugins.trainers.kto import KTO

    usual = {"batch_size": 4, "learning_rate": RATE, "schedule": "constant", "warmup": 0.0, "beta": 0.5}
    return KTO(**{**usual, **given})


def feedback_job(tiny, home, rows=FEEDBACK, **given):
    from ftp_plugins.formatters.preference import Feedback

    return job_on(tiny, home, rows, Feedback(), **given)


def trls_losses(training, given, chosen):
    """Train a copy of the model with TRL on the same batches and return the loss of each step."""
    from ftp_plugins.speed.torch_batches import Batches

    rows = chosen.rows_of(training.job.corpus.train, training.loaded, training.job.ledger)
    labels = rows.table.column("label").to_pylist()
    entries = []
    for batch in Batches(rows.lengths().tolist(), 4, 1, alike=False).of(0):
        answers = []
        for row in batch:
            tokens = rows[row]
            first, last = (order(at for at, on in enumerate(tokens.trained) if on) for order in (min, max))
            answers.append(tokens.input_ids[first : last + 1])
            entry = {"prompt_ids": tokens.input_ids[:first], "completion_ids": answers[-1], "label": labels[row]}
            entries.append(entry)
        for entry, answer in zip(entries[-len(batch) :], [answers[-1], *answers[:-1]], strict=True):
            if given.get("loss_type") != "apo_zero_unpaired":
                entry["KL_completion_ids"] = answer
    model = copy.deepcopy(training.job.model.model)
    return losses_of_trl("KTOTrainer", "KTOConfig", training.job, model, entries, beta=0.5, **given)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"desirable_weight": 1.5, "undesirable_weight": 0.5},) * 2,
        ({"loss": "apo_zero_unpaired"}, {"loss_type": "apo_zero_unpaired"}),
    ],
    ids=["kto", "weights", "apo"],
)
def test_losses_per_step_are_trls(ftp_tiny_model, tmp_path, ours, theirs):
    training = feedback_job(ftp_tiny_model, tmp_path, validation=0.0)
    trainer = options(**ours)
    expected = trls_losses(training, theirs, trainer)
    trainer.train(training.job)
    assert len(expected) == 6 and expected[0] != pytest.approx(expected[-1], abs=1e-3)
    assert training.losses() == pytest.approx(expected, abs=1e-5)
    assert training.of("speed")[0]["on"]


@pytest.mark.parametrize("speed", ["auto", "off"])
def test_validation_has_the_trainers_own_measures(ftp_tiny_model, tmp_path, speed):
    training = feedback_job(ftp_tiny_model, tmp_path)
    options(epochs=3, best_by="auc", speed=speed).train(training.job)
    first, *_, last = training.of("validation")
    assert first["loss"] == pytest.approx(0.5, abs=1e-3) and last["loss"] < 0.45
    assert last["auc"] == last["score"] == 1 and last["margin"] > 0.1 and last["kl"] >= 0
    assert all("kl" in event for event in training.of("metric"))
    assert any(event.get("margin", 0) > 0 for event in training.of("metric"))


def test_unbalanced_rows_are_told(ftp_tiny_model, tmp_path):
    rows = [{**row, "label": n % 4 == 0} for n, row in enumerate(FEEDBACK)]
    training = feedback_job(ftp_tiny_model, tmp_path, rows, validation=0.0)
    options().train(training.job)
    assert any("6 good and 18 bad answers weigh 0.33 to 1" in event["text"] for event in training.of("note"))


def test_a_row_alone_in_a_batch_gets_the_answer_of_another(ftp_tiny_model, tmp_path):
    from ftp_plugins.trainers.torch_feedback import mismatched

    training = feedback_job(ftp_tiny_model, tmp_path, validation=0.0)
    rows = options().rows_of(training.job.corpus.train, training.loaded, training.job.ledger)
    others = mismatched(rows.take(range(5)), [[0, 1], [2, 3], [4]], 1000)
    for row, partner in enumerate((1, 0, 3, 2, 3)):
        prompt, answer = rows[row].trained.index(True), rows[partner].trained.index(True)
        assert others[row].input_ids == rows[row].input_ids[:prompt] + rows[partner].input_ids[answer:]
    with pytest.raises(ftp.DataError, match="two rows"):
        mismatched(rows.take([0]), [[0]], 1000)


@pytest.mark.slow
def test_killed_training_comes_to_the_same(ftp_tiny_model, tmp_path):
    kills = [("metric", 3), ("validation", 4), ("checkpoint", 8)]
    assert_kills_change_nothing(ftp_tiny_model, tmp_path, kills, options(epochs=2).train, feedback_job)


@pytest.mark.slow
def test_twenty_kills_change_nothing(ftp_tiny_model, tmp_path):
    kills = [("metric", step) for step in range(2, 22)]
    trainer = options(epochs=5, evals_per_epoch=5)
    assert_kills_change_nothing(ftp_tiny_model, tmp_path, kills, trainer.train, feedback_job)
