"""The learning rate: the known range of each method, and the range test that leaves no trace."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training import job_of, load, metrics

from ftp.errors import DataError
from ftp.lm.learning_rates import rate_in_words, rate_shown
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.qlora import QLoRA
from ftp_plugins.trainers.sft import SFT
from ftp_plugins.trainers.torch_estimate import batches_to_time, fitted
from ftp_plugins.trainers.torch_rate_range import running_mean, suggest

ADAPTERS = [LoRA(r=4), LoRA(r=4, dora=True, init="pissa"), QLoRA(r=4), Full(), Full(layers="last 1", embeddings=False)]


# --- what `ftp check` says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "rate", "says"),
    [
        ({"use": "lora", "alpha": 8}, 1e-3, "1e-3 is above the usual 5e-5 to 2e-4 of 'lora'"),
        ({"use": "lora", "alpha": 8}, 1e-5, "1e-5 is below the usual 5e-5 to 2e-4 of 'lora'"),
        ({"use": "qlora", "r": 4, "alpha": 8}, 1e-3, "1e-3 is above the usual 5e-5 to 2e-4 of 'qlora'"),
        ({"use": "full"}, 1e-4, "1e-4 is above the usual 5e-6 to 2e-5 of 'full'"),
        ({"use": "full"}, 1e-6, "1e-6 is below the usual 5e-6 to 2e-5 of 'full'"),
    ],
)
def test_check_warns_of_a_rate_outside_the_range(ftp, ftp_recipe, adapter, rate, says):
    file = ftp_recipe(adapter=adapter, train={"learning_rate": rate, "batch_size": 16})
    result = ftp("check", str(file))
    assert result.code == 0
    line = next(at for at, text in enumerate(file.read_text().splitlines(), 1) if "learning_rate" in text)
    assert f"{file}:{line}:3: train.learning_rate: warning: {says}\n" in result.out


@pytest.mark.parametrize(
    ("adapter", "rate"), [("lora", 5e-5), ("lora", 2e-4), ("qlora", 1e-4), ("full", 5e-6), ("full", 2e-5)]
)
def test_check_says_nothing_of_a_rate_inside_the_range(ftp, ftp_recipe, adapter, rate):
    result = ftp("check", str(ftp_recipe(adapter={"use": adapter}, train={"learning_rate": rate})))
    assert result.code == 0 and "warning" not in result.out


def test_the_warning_names_the_flag_it_comes_from(ftp, ftp_recipe):
    result = ftp("check", str(ftp_recipe()), "--set", "train.learning_rate=1")
    assert "--set train.learning_rate=1: train.learning_rate: warning: 1e0 is above the usual" in result.out


def test_a_rate_that_is_the_trainers_default_has_the_place_of_its_block(ftp, ftp_recipe):
    file = ftp_recipe(adapter={"use": "full"})
    line = next(at for at, text in enumerate(file.read_text().splitlines(), 1) if text.startswith("train:"))
    assert f"{file}:{line}:1: train.learning_rate: warning: 1e-4 is above" in ftp("check", str(file)).out


@pytest.mark.parametrize(
    ("adapter", "batch", "says"),
    [
        (LoRA(r=16, alpha=32), 16, []),
        (LoRA(r=16, alpha=64), 16, ["multiplied by alpha/r = 4, where 2 is usual", "as if the rate were 2e-3"]),
        (LoRA(r=64, alpha=16), 16, ["multiplied by alpha/r = 0.25, where 2 is usual", "as if the rate were 1.3e-4"]),
        (LoRA(r=16, alpha=32, rslora=True), 16, ["multiplied by alpha/sqrt(r) (rslora) = 8", "the rate were 4e-3"]),
        (Full(), 144, ["a step has 144 rows", "square root of it", "1.5e-5 to 6e-5"]),
        (Full(), 1, ["a step has 1 row:", "1.3e-6 to 5e-6"]),
    ],
)
def test_rank_and_batch_are_said_in_words(adapter, batch, says):
    words = rate_in_words(adapter, 1e-3, batch)
    for part in says:
        assert part in words
    assert words.count(";") == (1 if says else 0)


@pytest.mark.parametrize(("rate", "shown"), [(2e-4, "2e-4"), (1.23e-3, "1.2e-3"), (0.3, "3e-1"), (12.0, "1.2e1")])
def test_rates_are_shown_as_people_write_them(rate, shown):
    assert rate_shown(rate) == shown


# --- the range test --------------------------------------------------------------------------------------------------


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("speed", "adapter"),
    [*(("auto", adapter) for adapter in ADAPTERS), ("off", LoRA(r=4)), ("off", Full())],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_weights_are_as_they_were(ftp_tiny_model, tmp_path, speed, adapter):
    import torch

    loaded = load(ftp_tiny_model, adapter)
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    random = torch.random.get_rng_state()
    job, events = job_of(loaded, tmp_path)
    found = SFT(batch_size=2, speed=speed).range_test(job, 1e-5, 1.0, 12)
    after = dict(loaded.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(weight.grad is None for weight in after.values())
    assert not loaded.model.training
    assert not list((tmp_path / "checkpoints").glob("*")), "nothing is saved"
    assert not metrics(events, "plan", "steps") and not metrics(events)
    # It did train: from a random model any learning shows.
    assert min(found["smoothed"]) < found["start"]
    assert found["losses"][0] == pytest.approx(found["smoothed"][0], abs=0.5)


@pytest.mark.parametrize("adapter", [LoRA(r=4, dropout=0.1), Full()], ids=lambda adapter: type(adapter).__name__)
def test_a_training_after_it_is_the_same_as_without(ftp_tiny_model, tmp_path, adapter):
    import torch

    runs = []
    for name in ("without", "with"):
        loaded = load(ftp_tiny_model, adapter)
        job, events = job_of(loaded, tmp_path / name)
        trainer = SFT(epochs=2, batch_size=2, learning_rate=1e-3)
        if name == "with":
            trainer.range_test(job, 1e-5, 1.0, 10)
        result = trainer.train(job)
        weights = {n: w.detach().clone() for n, w in result.model.model.named_parameters() if w.requires_grad}
        runs.append((metrics(events), metrics(events, "validation"), weights))
    assert runs[0][:2] == runs[1][:2]
    assert all(torch.equal(weight, runs[1][2][name]) for name, weight in runs[0][2].items())


def test_the_rate_grows_geometrically_and_the_first_loss_is_the_untouched_models(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, Full()), tmp_path)
    found = SFT(batch_size=8, warmup=0.5, schedule="cosine", precision="float32").range_test(job, 1e-6, 1e-2, 9)
    assert found["rates"] == pytest.approx([1e-6 * 10 ** (n / 2) for n in range(9)], rel=1e-6)
    assert not found["diverged"]
    assert found["losses"][0] == pytest.approx(found["start"], rel=1e-5)  # every batch is all of the rows
    assert found["smoothed"][0] == pytest.approx(found["losses"][0], rel=1e-5)


def test_it_goes_the_fast_way_and_counts_accumulated_batches_as_one_step(ftp_tiny_model, tmp_path):
    large, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path / "large")
    small, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path / "small")
    one = SFT(batch_size=8).range_test(large, 1e-5, 1e-2, 10)
    four = SFT(batch_size=2, gradient_accumulation=4).range_test(small, 1e-5, 1e-2, 10)
    assert four["losses"] == pytest.approx(one["losses"], rel=2e-2)
    [on] = metrics(events, "speed", "on")
    assert "packed rows" in on


def test_it_ends_where_the_loss_goes_up(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, Full()), tmp_path)
    found = SFT(batch_size=4).range_test(job, 1e-4, 1e4, 60)
    assert found["diverged"] and len(found["rates"]) < 60
    assert found["suggestion"] < found["rates"][-1] / 10
    assert "fastai" in found["reason"]


def test_rows_that_cannot_be_trained_on_are_an_error_here_too(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path)
    with pytest.raises(DataError, match="max_length is 8"):
        SFT(max_length=8).range_test(job, 1e-5, 1e-2, 10)


RATES = [10 ** (n / 4 - 6) for n in range(20)]  # 1e-6 to 5.6e-2


@pytest.mark.parametrize(
    ("smoothed", "diverged", "rate", "says"),
    [
        ([3.0] * 20, False, None, "the loss never fell below the untouched model's 3.000"),
        ([3.0] * 10 + [math.nan] * 10, True, None, "never fell"),
        ([3.0 - 0.1 * n for n in range(20)], False, None, "still falling at the highest rate, 5.6e-2; raise --high"),
        # Lowest at 1e-2, falls fastest at 1e-4: a tenth of the first is larger.
        ([3.0] * 9 + [2.0 - n / 100 for n in range(8)] + [4.0] * 3, True, 1e-4, "the rate of the fastest fall"),
        # Lowest at 1e-2 right after the fastest fall.
        ([3.0] * 16 + [2.0] + [4.0] * 3, True, 1e-3, "a tenth of the rate of the lowest loss"),
    ],
)
def test_the_suggestion_has_a_reason(smoothed, diverged, rate, says):
    found, reason = suggest(RATES, smoothed, 3.0, diverged)
    assert found == (rate and pytest.approx(rate))
    assert says in reason


def test_the_running_mean_has_no_pull_to_zero():
    means = []
    for _ in range(30):
        means.append(running_mean(means, 2.0))
    assert means == pytest.approx([2.0] * 30)
    later = [running_mean(means[:1], 4.0)]
    assert later == pytest.approx([2 * 0.9 / 1.9 + 4 / 1.9])


# --- the times behind `ftp plan` -------------------------------------------------------------------------------------


@given(
    st.floats(0, 5),
    st.floats(1e-4, 1),
    st.lists(st.integers(1, 10_000), min_size=2, max_size=8, unique=True),
)
def test_a_line_of_times_is_found_again(start, slope, tokens):
    steps = [{"tokens": n, "seconds": start + slope * n} for n in tokens]
    a, b = fitted(steps)
    for n in (min(tokens), max(tokens)):
        assert a + b * n == pytest.approx(start + slope * n, rel=1e-6, abs=1e-9)
    assert a >= 0 and b > 0


@pytest.mark.parametrize(
    "steps",
    [
        [{"tokens": 100, "seconds": 1.0}, {"tokens": 100, "seconds": 3.0}],  # all of one size
        [{"tokens": 50, "seconds": 3.0}, {"tokens": 150, "seconds": 1.0}],  # noise: more tokens, less time
        [{"tokens": 99, "seconds": 0.1}, {"tokens": 101, "seconds": 3.9}],  # noise: a negative start
    ],
)
def test_a_line_that_cannot_be_goes_through_the_origin(steps):
    assert fitted(steps) == pytest.approx((0.0, 0.02))


@pytest.mark.parametrize(
    ("lengths", "batches", "sizes"),
    [
        (list(range(10, 120, 10)), [[n] for n in range(11)], [10, 30, 50, 70, 90, 110]),
        ([10, 10, 10, 10], [[0, 1], [2, 3]], [10, 20, 20]),  # alike: half of one makes another size
        ([10], [[0]], [10]),
    ],
)
def test_batches_of_different_sizes_are_timed(lengths, batches, sizes):
    assert [sum(lengths[row] for row in rows) for rows in batches_to_time(batches, lengths)] == sizes


# --- the command -----------------------------------------------------------------------------------------------------


def test_lr_find_prints_a_suggestion_writes_a_page_and_keeps_no_run(ftp, ftp_recipe, ftp_tiny_model, tmp_path):
    file = ftp_recipe(model={"id": str(ftp_tiny_model)}, adapter={"use": "full"})
    result = ftp("lr-find", str(file), "--steps", "40", "--low", "1e-5", "--high", "1e2", "--html", "rate.html")
    assert result.code == 0, result.err
    assert re.search(r"^suggestion \d(\.\d)?e-\d: .*fastai", result.out, re.MULTILINE)
    assert "the usual 5e-6 to 2e-5 of 'full'" in result.out
    assert "the recipe says 1e-4; the weights are unchanged" in result.out
    assert result.out.splitlines()[-1] == "rate.html"
    page = (tmp_path / "rate.html").read_text()
    assert "<svg" in page and "suggestion" in page
    assert not re.search(r'(src|href)\s*="(?!#)|url\((?!#)', page)  # nothing of it is elsewhere
    assert not (tmp_path / "runs").exists()


def test_lr_find_as_json(ftp, ftp_recipe, ftp_tiny_model):
    file = ftp_recipe(model={"id": str(ftp_tiny_model)})
    result = ftp("lr-find", str(file), "--steps", "10", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    steps = len(found["rates"])
    assert steps == len(found["losses"]) == len(found["smoothed"]) and (steps == 10 or found["diverged"])
    assert found["rates"] == pytest.approx([5e-6 * 20_000 ** (n / 9) for n in range(steps)])
    assert found["usual"] == [5e-5, 2e-4] and found["recipe_rate"] == 1e-4 and found["batch"] == 4
    assert found["suggestion"] is None or found["suggestion"] < 0.1
    assert found["reason"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--low", "1", "--high", "1"], "the rate must rise"),
        (["--low", "0"], "not in the range"),
        (["--steps", "3"], "not in the range"),
    ],
)
def test_lr_find_refuses_what_is_no_range(ftp, ftp_recipe, arguments, says):
    result = ftp("lr-find", str(ftp_recipe()), *arguments)
    assert result.code == 2 and says in result.err and "Traceback" not in result.err
