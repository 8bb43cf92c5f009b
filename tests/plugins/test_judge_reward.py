"""The judge as a reward: it grades the answers of a training, within its budget, and is asked once for each."""

import json
import math

import pytest
from judge_server import Say, between, prompt_of, scores, serving
from test_grpo import examples_of, train_grpo

import ftp
from ftp.records.rollouts import read_rollouts
from ftp_plugins.engines.client import ServiceError
from ftp_plugins.evaluators.judge import Judge
from ftp_plugins.evaluators.length import Length
from ftp_plugins.trainers.grpo import GRPO


def by_words(request):
    """As many points as the answer has words, five at most."""
    level = max(1, min(5, len(between(prompt_of(request), "answer").split())))
    return Say(scores(accuracy=level, helpfulness=5))


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    with serving(by_words) as server:
        yield server


def judge(server, **options):
    given = {
        "model": "judge-1",
        "base_url": server.url,
        "max_retries": 0,
        "rubric": ["accuracy", "helpfulness"],
        **options,
    }
    return Judge(**given).named("judge")


def lines_of(directory):
    return [json.loads(line) for line in (directory / "judgments.jsonl").read_text().splitlines()]


def test_a_reward_is_the_mean_over_the_criteria_and_asked_once(server, tmp_path):
    reward, examples = judge(server).recording_in(tmp_path), examples_of([2, 3])
    found = reward.scores([*examples, examples[0]], ["four", "it is six", "four"])
    assert [score.value for score in found] == [3.0, 4.0, 3.0]
    assert found[0].reason == "accuracy 1, helpfulness 5"
    assert len(server.asked) == 2, "the same answer is judged once"
    assert {line["evaluator"] for line in lines_of(tmp_path)} == {"judge as a reward"}
    assert [score.value for score in judge(server).scores(examples, ["four", "it is six"])] == [3.0, 4.0]
    assert len(server.asked) == 2, "another run takes it from the cache"


def test_an_answer_without_a_verdict_has_no_reward(server, tmp_path):
    server.say = lambda request: Say("no") if "four" in prompt_of(request) else by_words(request)
    found = judge(server).recording_in(tmp_path).scores(examples_of([2, 3]), ["four", "six"])
    assert math.isnan(found[0].value) and found[1].value == 3.0
    assert found[0].reason == "unscored: the reply can't be read"


def test_training_stops_at_the_budget_and_not_without_rewards(server, tmp_path):
    prices = {"price_per_million_input": 0.0, "price_per_million_output": 1e6, "max_tokens": 100}
    reward = judge(server, max_cost=150, **prices).recording_in(tmp_path)
    with pytest.raises(ServiceError, match="judge as a reward: max_cost, 150, would have been exceeded"):
        reward.scores(examples_of(range(2, 9)), [f"answer {n}" for n in range(2, 9)])
    assert sum(line["cost"] for line in lines_of(tmp_path)) <= 150


def test_grpo_trains_on_what_the_judge_says(ftp_tiny_model, server, tmp_path):
    events = []
    rewards = [judge(server).weighing(0.5), Length(min_words=6).named("length")]
    train_grpo(ftp_tiny_model, tmp_path / "run", events, rewards=rewards, epochs=0.4, updates=1)
    rollouts = read_rollouts(tmp_path / "run" / "rollouts.jsonl")
    assert rollouts and len(server.asked) >= len({r["answer"] for r in rollouts}) > 1
    for rollout in rollouts:
        level = max(1, min(5, len(rollout["answer"].split())))
        assert rollout["rewards"]["judge"] == (level + 5) / 2
        assert rollout["reward"] == pytest.approx(0.5 * rollout["rewards"]["judge"] + rollout["rewards"]["length"])
    assert {line["evaluator"] for line in lines_of(tmp_path / "run")} == {"judge as a reward"}
    asked = len(server.asked)
    again = []
    train_grpo(ftp_tiny_model, tmp_path / "again", again, rewards=rewards, epochs=0.4, updates=1)
    assert len(server.asked) == asked, "the same answers again cost nothing"
    assert [e["reward"] for e in again if e["event"] == "metric"] == [
        e["reward"] for e in events if e["event"] == "metric"
    ]


def test_a_gold_set_of_a_reward_would_be_read_by_nothing(check_recipe, tmp_path):
    (tmp_path / "gold.jsonl").write_text("{}\n")
    outcome = check_recipe(
        "name: x\nmodel: {use: huggingface, id: some/model}\nadapter: {use: lora}\n"
        "data: {train: [{path: train.jsonl, format: {use: instruct}}]}\n"
        "train: {use: grpo, rewards: [{use: judge, model: m, calibrate: gold.jsonl}]}\n"
    )
    assert outcome.code == 2
    assert "train.rewards.0.calibrate: is read by a judge under `evaluate:`" in outcome.err


def test_a_judge_can_be_a_reward():
    assert GRPO(rewards=[Judge(model="m")]).problems() == []
    assert ftp.Evaluator.scores_answers() is False
