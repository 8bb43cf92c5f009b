"""The trainer `reward` and the evaluator `reward_model`: TRL's loss, kills, and a model that scores answers."""

import copy
import json

import pytest
from preference_training import PAIRS, RATE, job_on, losses_of_trl
from test_dpo import assert_kills_change_nothing
from test_grpo import examples_of, train_grpo

import ftp
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.evaluators.reward_model import RewardModel


def options(**given):
    from ftp_plugins.trainers.reward import Reward

    usual = {"batch_size": 4, "learning_rate": RATE, "schedule": "constant", "warmup": 0.0, "precision": "float32"}
    return Reward(**{**usual, **given})


def pairs_job(tiny, home, **given):
    from ftp_plugins.formatters.preference import Preference

    return job_on(tiny, home, PAIRS, Preference(), **given)


def trls_losses(training, trainer, alike):
    """Train TRL's reward model from the same weights on the same batches and return the loss of each step."""
    import transformers

    from ftp.lm.torch_models import causal_model
    from ftp_plugins.speed.torch_batches import Batches
    from ftp_plugins.trainers.torch_reward_head import add_head

    pairs = trainer.rows_of(training.job.corpus.train, training.loaded, training.job.ledger)
    order = [row for batch in Batches(pairs.lengths().tolist(), 4, 1, alike).of(0) for row in batch]
    entries = [{f"{name}_ids": getattr(pairs, name)[row].input_ids for name in ("chosen", "rejected")} for row in order]
    ours = training.job.model.model
    causal = causal_model(ours)
    config = copy.deepcopy(causal.config)
    config.num_labels, config.pad_token_id = 1, training.loaded.tokenizer.pad_token_id
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    if hasattr(ours, "peft_config"):
        import peft

        targets = sorted(ours.peft_config["default"].target_modules)
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=32, target_modules=targets))
        model.base_model.model.score.requires_grad_(True)
    head = add_head(copy.deepcopy(ours), training.job.seed).weight
    state = {name: weight for name, weight in ours.state_dict().items() if "lm_head" not in name}
    name = next(name for name, _ in model.named_parameters() if name.endswith("score.weight"))
    missing, unexpected = model.load_state_dict({**state, name: head}, strict=False)
    assert not missing and not unexpected
    chosen = {"center_rewards_coefficient": trainer.center_rewards_coefficient}
    return losses_of_trl("RewardTrainer", "RewardConfig", training.job, model, entries, **chosen)


@pytest.mark.thin(3)
@pytest.mark.parametrize("center", [None, 0.05])
@pytest.mark.parametrize(("adapter", "speed"), [(Full(), "auto"), (Full(), "off")], ids=["fast", "slow"])
def test_losses_per_step_are_trls(ftp_tiny_model, tmp_path, adapter, speed, center):
    training = pairs_job(ftp_tiny_model, tmp_path, adapter=adapter, validation=0.0)
    trainer = options(center_rewards_coefficient=center, speed=speed)
    expected = trls_losses(training, trainer, alike=speed == "off")
    trainer.train(training.job)
    assert len(expected) == 6 and expected[0] != pytest.approx(expected[-1], abs=1e-3)
    assert training.losses() == pytest.approx(expected, abs=1e-5)
    assert bool(training.of("speed")[0]["on"]) == (speed == "auto")


def test_it_is_a_sound_component(tmp_path):
    from ftp.testing import assert_component_ok
    from ftp_plugins.trainers.reward import Reward

    assert_component_ok(Reward)


def test_it_learns_to_tell_answers_apart(ftp_tiny_model, tmp_path):
    training = pairs_job(ftp_tiny_model, tmp_path)
    result = options(epochs=4, best_by="accuracy").train(training.job)
    first, *_, last = training.of("validation")
    assert last["accuracy"] == 1 and last["loss"] < first["loss"] and last["margin"] > 0.5
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], rel=1e-4)
    assert training.of("plan")[0]["loss_unit"] == "mean over pairs"
    assert all({"accuracy", "margin"} <= set(event) for event in training.of("metric"))
    assert result.best_step


def test_centering_keeps_rewards_around_zero(ftp_tiny_model, tmp_path):
    sums = {}
    for center in (None, 1.0):
        training = pairs_job(ftp_tiny_model, tmp_path / str(center))
        options(epochs=4, center_rewards_coefficient=center).train(training.job)
        last = training.of("validation")[-1]
        sums[center] = abs(last["chosen_reward"] + last["rejected_reward"])
    assert sums[1.0] < 0.8 * sums[None]


@pytest.mark.slow
def test_killed_training_comes_to_the_same(ftp_tiny_model, tmp_path):
    kills = [("metric", 3), ("validation", 4), ("checkpoint", 8)]
    events = assert_kills_change_nothing(ftp_tiny_model, tmp_path, kills, options(epochs=2).train, pairs_job)
    assert len([event for event in events if event["event"] == "resume"]) == 3


@pytest.mark.slow
def test_twenty_kills_change_nothing(ftp_tiny_model, tmp_path):
    kills = [("metric", step) for step in range(2, 22)]
    trainer = options(epochs=5, evals_per_epoch=5)
    assert_kills_change_nothing(ftp_tiny_model, tmp_path, kills, trainer.train, pairs_job)


# --- the model, saved and used


def write_recipe(home, train, tiny, adapter, data):
    recipe = {
        "name": "reward",
        "model": {"use": "huggingface", "id": str(tiny), "device": "cpu"},
        "adapter": adapter,
        "data": data,
        "train": train,
    }
    (home / "r.yaml").write_text(json.dumps(recipe))
    return "r.yaml"


TRAIN = {"use": "reward", "epochs": 4, "batch_size": 4, "learning_rate": 3e-3, "precision": "float32"}


@pytest.fixture(scope="module", params=[{"use": "lora", "r": 4}, {"use": "full"}], ids=["lora", "full"])
def run(request, tmp_path_factory, ftp_tiny_model):
    """A run of the trainer."""
    from click.testing import CliRunner

    from ftp.cli import cli

    place = tmp_path_factory.mktemp("reward")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    data = {"train": [{"path": "rows.jsonl", "format": {"use": "preference"}}], "validation": "25%"}
    recipe = place / write_recipe(place, TRAIN, ftp_tiny_model, request.param, data)
    result = CliRunner().invoke(cli, ["run", str(recipe), "--runs", str(place / "runs")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    [run] = (place / "runs" / "reward").iterdir()
    return run


def test_a_run_scores_answers_as_its_validation_did(run):
    from ftp.stages.prepare_data import read_prepared
    from ftp.testing import assert_component_ok

    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    [best] = [event for event in events if event["event"] == "best"]
    [expected] = [event for event in events if event["event"] == "validation" and event["step"] == best["step"]]
    pairs = list(read_prepared(run / "data", ()).validation)
    reward = RewardModel(path=str(run), batch_size=4)
    assert reward.problems() == [] and reward.files()
    chosen = reward.scores(pairs, [pair.messages[-1].content for pair in pairs])
    rejected = reward.scores(pairs, [pair.rejected[-1].content for pair in pairs])
    rates = {"abs": 0.05, "rel": 0.05}  # the evaluator loads it in bfloat16 where that is faster
    assert sum(score.value for score in chosen) / len(pairs) == pytest.approx(expected["chosen_reward"], **rates)
    assert sum(score.value for score in rejected) / len(pairs) == pytest.approx(expected["rejected_reward"], **rates)
    assert_component_ok(RewardModel, path=str(run))
    page = (run / "report.html").read_text()
    assert "Preferences of the validation rows" in page


def test_the_libraries_load_it(run, ftp_tiny_model):
    """Plain peft and transformers load the reward model, without a warning of new weights."""
    import transformers

    place = RewardModel(path=str(run)).place
    if place.name == "reward_model":
        from peft import AutoPeftModelForSequenceClassification

        model = AutoPeftModelForSequenceClassification.from_pretrained(place, num_labels=1)
    else:
        model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
            place, num_labels=1, output_loading_info=True
        )
        assert not loading["missing_keys"]
    score = next(weight for name, weight in model.named_parameters() if "score" in name and weight.shape[0] == 1)
    assert float(score.detach().abs().sum()) > 0


def test_its_weights_are_restored_as_those_of_any_run(run):
    """As a run does that is resumed after its training."""
    from safetensors.torch import load_file

    from ftp import plugins, recipe
    from ftp.runs.directory import RunDirectory
    from ftp.stages.load_trained import load_trained

    loaded = load_trained(recipe.read(run / "resolved.yaml", plugins.load()), RunDirectory(run))
    weights = {name: weight for name, weight in loaded.model.named_parameters() if "q_proj" in name}
    [file] = (run / "model").glob("*.safetensors")
    saved = {name.replace(".default", ""): weight for name, weight in load_file(file).items()}
    changed = [name for name in weights if name.replace(".default", "") in saved]
    assert changed and all(bool((weights[name] == saved[name.replace(".default", "")]).all()) for name in changed)


def test_grpo_trains_on_it(ftp, run, ftp_tiny_model, tmp_path):
    from ftp.records.rollouts import read_rollouts

    reward = RewardModel(path=str(run)).named("reward_model")
    train_grpo(ftp_tiny_model, tmp_path / "grpo", [], rewards=[reward], epochs=0.4, updates=1)
    for rollout in read_rollouts(tmp_path / "grpo" / "rollouts.jsonl"):
        number = int(rollout["prompt"].partition(":")[2])
        [score] = reward.scores(examples_of([number]), [rollout["answer"]])
        assert rollout["rewards"]["reward_model"] == pytest.approx(score.value, abs=0.02)


def test_a_model_without_a_head_is_refused(ftp_tiny_model):
    with pytest.raises(ftp.ModelError, match="is no reward model: it has no weights of a head"):
        RewardModel(path=str(ftp_tiny_model)).scores(examples_of([2]), ["4"])


def test_a_long_answer_has_no_score(run):
    reward = RewardModel(path=str(run), max_length=40)
    short, long = reward.scores(examples_of([2, 3]), ["4", "six " * 100])
    assert short.value == short.value and long.value != long.value and long.reason == "longer than 40 tokens"


BAD = {
    "no such run": ({"use": "reward_model", "path": "./nothing"}, "path: "),
    "no path": ({"use": "reward_model"}, "path: is missing"),
    "an empty directory": ({"use": "reward_model", "path": "./empty"}, "holds no finished run and no model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_reward_models_are_refused(ftp, tmp_path, ftp_tiny_model, name):
    reward, said = BAD[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "train.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
    data = {"train": [{"path": "train.jsonl", "format": {"use": "instruct"}}]}
    train = {"use": "grpo", "rewards": [reward]}
    outcome = ftp("check", write_recipe(tmp_path, train, ftp_tiny_model, {"use": "lora"}, data))
    assert outcome.code == 2 and said in outcome.err, outcome.err


BAD_TRAINERS = {
    "conversations": ({"use": "reward"}, "instruct", "the trainer 'reward' takes preference"),
    "beta": ({"use": "reward", "beta": 0.1}, "preference", "train.beta: unknown key"),
    "centering of 0": ({"use": "reward", "center_rewards_coefficient": 0}, "preference", "must be greater than 0"),
    "best by auc": ({"use": "reward", "best_by": "auc"}, "preference", "no evaluator 'auc'"),
}


@pytest.mark.parametrize("name", BAD_TRAINERS)
def test_bad_recipes_are_refused(ftp, tmp_path, ftp_tiny_model, name):
    train, format, said = BAD_TRAINERS[name]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    data = {"train": [{"path": "rows.jsonl", "format": {"use": format}}]}
    outcome = ftp("check", write_recipe(tmp_path, train, ftp_tiny_model, {"use": "lora"}, data))
    assert outcome.code == 2 and said in outcome.err, outcome.err


def test_lora_gives_trls_losses_too(ftp_tiny_model, tmp_path):
    training = pairs_job(ftp_tiny_model, tmp_path, adapter=LoRA(r=4), validation=0.0)
    expected = trls_losses(training, options(), alike=False)
    options().train(training.job)
    assert training.losses() == pytest.approx(expected, abs=1e-5)
