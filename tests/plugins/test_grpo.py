"""The trainer `grpo`: its loss beside TRL's, whole runs on the tiny model, kills, watchers, bad recipes."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import ftp as api
from ftp.components import TrainingJob
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.records.rollouts import read_rollouts
from ftp.runs.events import done_until
from ftp.types import Example, Message
from ftp_plugins.evaluators.length import Length
from ftp_plugins.trainers.grpo import GRPO

PROMPTS = ["Double 4.", "Double seventeen, please.", "Name the risk."]
LONGEST = 9


@pytest.fixture(scope="module")
def policy(ftp_tiny_model):
    """The tiny model with an adapter that does something, its tokenizer, and a training job for it."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.set_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ftp_tiny_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(ftp_tiny_model)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    loaded = api.LoadedModel(model, tokenizer, "tiny", "", api.ModelRequest(model="tiny"))
    examples = [
        Example((Message("user", prompt), Message("assistant", "8")), id=f"rows:{n}")
        for n, prompt in enumerate(PROMPTS)
    ]
    ledger = Ledger()
    for example in examples:
        ledger.add("rows", int(example.id.partition(":")[2]), "train", "domain")
    return TrainingJob(loaded, Corpus(examples, [], {}), ledger, None, 1, lambda *a, **k: None)


def given_rollouts(job):
    """Two answers to each prompt, of lengths 3 to 9; one of them is cut, and one has no advantage."""
    import torch

    from ftp.lm.rendering import prompt_ids
    from ftp_plugins.trainers.torch_rollouts import Rollouts

    draw = torch.Generator().manual_seed(3)
    examples = [example for example in job.corpus.train for _ in range(2)]
    answers = [torch.randint(4, 300, (length,), generator=draw).tolist() for length in (3, 9, 5, 4, 7, 6)]
    return Rollouts(
        ids=[example.id for example in examples],
        prompts=[prompt_ids(job.model.tokenizer, example) for example in examples],
        answers=answers,
        texts=[""] * 6,
        stopped=[True, False, True, True, True, True],
        totals=[0.0] * 6,
        scores=[{}] * 6,
        reasons=[{}] * 6,
        advantages=[0.7, -0.7, 1.1, -1.1, 0.0, 0.4],
    )


def trl_loss(job, rollouts, old, reference, options):
    """TRL's loss and its gradients for the same rollouts."""
    import torch
    import trl
    from datasets import Dataset

    from ftp.lm.torch_packing import padded

    model, tokenizer = copy.deepcopy(job.model.model), job.model.tokenizer  # TRL adds an adapter to it
    args = trl.GRPOConfig(
        output_dir="unused", per_device_train_batch_size=6, num_generations=2, report_to="none",
        use_cpu=True, bf16=False,
        max_completion_length=LONGEST, loss_type=options.loss, beta=options.kl, epsilon=options.clip,
        epsilon_high=options.clip_high, temperature=options.temperature, mask_truncated_completions=options.mask_cut,
        activation_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model, reward_funcs=lambda completions, **kwargs: [0.0] * len(completions), args=args,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    prompts, prompt_mask = padded(rollouts.prompts, tokenizer.pad_token_id, side="left")
    answers, mask = padded(rollouts.answers, tokenizer.pad_token_id, side="right")
    if options.mask_cut:
        mask = mask * torch.tensor(rollouts.stopped)[:, None]

    def placed(values):
        found = torch.zeros(answers.shape)
        for row, part in enumerate(torch.split(torch.tensor(values), rollouts.lengths)):
            found[row, : len(part)] = part
        return found

    inputs = {
        "prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": answers, "completion_mask": mask,
        "advantages": torch.tensor(rollouts.advantages), "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": placed(reference),
        **({"old_per_token_logps": placed(old)} if old is not None else {}),
    }  # fmt: skip
    model.train()
    loss = trainer.compute_loss(model, inputs)
    return loss, gradients(model, loss)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"loss": "grpo"},
        {"loss": "dr_grpo", "temperature": 0.7},
        {"kl": 0.1},
        {"loss": "grpo", "kl": 0.05, "updates": 2, "clip": 0.1, "clip_high": 0.15},
        {"updates": 2, "mask_cut": True},
    ],
    ids=lambda more: ", ".join(f"{name} {value}" for name, value in more.items()) or "default",
)
def test_the_loss_of_a_step_is_that_of_trl(policy, more, fast):
    import torch

    from ftp_plugins.speed.torch_path import FastPath

    options = GRPO(rewards=[Length(min_words=3)], generations=2, max_new_tokens=LONGEST, **more)
    objective = options.objective(policy, api.LoadedTokenizer(policy.model.tokenizer, (2,)))
    objective.begin()
    rollouts, model = given_rollouts(policy), policy.model.model
    path = FastPath(model, torch.float32) if fast else None
    with torch.no_grad(), objective.reference.active(None):
        reference = objective.scored(model, rollouts)[0].tolist()
    with torch.no_grad():
        now = objective.scored(model, rollouts)[0]
    old = (now + 0.3 * torch.sin(torch.arange(len(now)))).tolist() if options.updates > 1 else None
    theirs, their_gradients = trl_loss(policy, rollouts, old, reference, options)

    taken = 2 if old else 1
    ours = replace(rollouts, old=old or [], taken=taken, reference=reference)
    batch = {"rollouts": ours}
    objective.path = path
    with path.layers() if path else torch.enable_grad():
        loss = objective.loss(model, batch, objective.count(batch))
        found = gradients(model, loss)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(theirs.item()) > 1e-3 and found.keys() == their_gradients.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, their_gradients[name], atol=1e-5), name
    if old:
        assert 0 < objective.sums["clipped"] < len(now), "the clipping has something to do"


def test_advantages():
    import torch

    from ftp_plugins.trainers.torch_policy_loss import advantages

    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [1.0, math.nan, 0.0, 5.0]])
    known = torch.tensor([1.0, 0.0, 5.0])
    grpo = advantages(rewards, "grpo")
    assert torch.allclose(grpo[0], (rewards[0] - 0.5) / (rewards[0].std() + 1e-4))
    assert grpo[1].tolist() == [0] * 4 and grpo[2, 1] == 0
    assert torch.allclose(grpo[2, [0, 2, 3]], (known - 2) / (known.std() + 1e-4))
    assert advantages(rewards, "dr_grpo")[0].tolist() == [0.5, -0.5, -0.5, 0.5]
    rloo = advantages(rewards, "rloo")
    assert torch.allclose(rloo[0], torch.tensor([1 - 1 / 3, -2 / 3, -2 / 3, 1 - 1 / 3]))
    assert torch.allclose(rloo[2], torch.tensor([1 - 2.5, 0, 0 - 3.0, 5 - 0.5]))


# --- whole trainings


class Killed(BaseException):
    """What a process that is killed doesn't live to see."""


def examples_of(numbers):
    return [
        Example((Message("user", f"Double {n}."), Message("assistant", str(2 * n))), id=f"rows:{n}") for n in numbers
    ]


def train_grpo(tiny, directory, events, kill=None, teach=None, **options):
    """Train with everything new but what is on the disk; return the weights.

    Args:
        events: gets the events, after those of an earlier process.
        kill: name and step of the event at which the process dies.
        teach: called with the model and its tokenizer before the adapter is put on it.
        options: of the trainer.
    """
    import transformers
    from peft import LoraConfig, get_peft_model

    from ftp.components import EngineWork
    from ftp.runs.directory import RunDirectory
    from ftp_plugins.engines.transformers import Transformers

    transformers.set_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    if teach:
        teach(model, tokenizer)
    model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]))
    loaded = api.LoadedModel(model, tokenizer, "tiny", "", api.ModelRequest(model="tiny"))
    ledger = Ledger()
    for n in range(2, 16):
        ledger.add("rows", n, "train", "domain")
    directory.mkdir(exist_ok=True)

    def emit(name, **values):
        events.append({"event": name, **values})
        if (name, values.get("step")) == kill:
            raise Killed

    job = TrainingJob(
        loaded, Corpus(examples_of(range(2, 12)), examples_of(range(12, 16)), {}), ledger, directory / "checkpoints", 1,
        emit, None, Transformers().at_work(EngineWork(loaded)), RunDirectory(directory).append_records, directory,
    )  # fmt: skip
    usual = {"rewards": [Length(min_words=6)], "generations": 3, "max_new_tokens": 10, "updates": 2}
    usual |= {"batch_size": 2, "learning_rate": 5e-3, "epochs": 1, "evals_per_epoch": 3}
    trainer = GRPO(**{**usual, **options})
    result = trainer.train(job)
    return result, {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def metrics(events):
    names = ("loss", "reward", "kl", "entropy", "answer_tokens", "clipped")
    return {e["step"]: [e[name] for name in names] for e in done_until(events) if e["event"] == "metric"}


@pytest.fixture(scope="module")
def whole(ftp_tiny_model, tmp_path_factory):
    """A training in one piece: 5 batches of prompts, two steps on each."""
    directory, events = tmp_path_factory.mktemp("grpo"), []
    return directory, events, *train_grpo(ftp_tiny_model, directory, events)


def test_a_training_tells_of_rewards_and_keeps_every_rollout(whole):
    directory, events, result, _ = whole
    assert list(metrics(events)) == list(range(1, 11)) and result.steps == 10
    rollouts = read_rollouts(directory / "rollouts.jsonl")
    assert [rollout["step"] for rollout in rollouts] == [step for step in (1, 3, 5, 7, 9) for _ in range(6)]
    assert len({rollout["prompt"] for rollout in rollouts}) == 10
    for step in (1, 3, 5):
        part = [rollout for rollout in rollouts if rollout["step"] == step]
        assert metrics(events)[step][1] == pytest.approx(sum(r["reward"] for r in part) / 6)
        for group in (part[:3], part[3:]):
            assert sum(r["advantage"] for r in group) == pytest.approx(0, abs=1e-4)
            assert all(r["rewards"] == {"Length": min(1, len(r["answer"].split()) / 6)} for r in group)
    # The last step's answers have been counted twice, as two steps are taken on them.
    assert result.trained_tokens == 2 * sum(rollout["tokens"] for rollout in rollouts)
    first, second = metrics(events)[1], metrics(events)[2]
    assert first[5] == 0 and second[1] == first[1], "the second step is taken on the same answers"
    assert second[0] != first[0]
    assert all(e["loss"] == -e["reward"] for e in events if e["event"] == "validation")


def test_a_seed_makes_a_training_repeatable(whole, ftp_tiny_model, tmp_path):
    events = []
    _, weights = train_grpo(ftp_tiny_model, tmp_path / "again", events)
    assert_equal(whole, tmp_path / "again", events, weights)


def assert_equal(whole, directory, events, weights):
    import torch

    assert metrics(events) == metrics(whole[1])
    assert read_rollouts(directory / "rollouts.jsonl") == read_rollouts(whole[0] / "rollouts.jsonl")
    assert all(torch.equal(weight, whole[3][name]) for name, weight in weights.items())


@pytest.mark.parametrize(
    "kill",
    [("metric", 1), ("metric", 2), ("metric", 5), ("metric", 6), ("metric", 8), ("validation", 6), ("metric", 10)],
    ids=lambda kill: f"{kill[0]} {kill[1]}",
)
def test_a_training_that_is_killed_comes_to_the_same(whole, ftp_tiny_model, tmp_path, kill):
    """Also between two steps on the same answers: a checkpoint holds them."""
    events = []
    with pytest.raises(Killed):
        train_grpo(ftp_tiny_model, tmp_path / "run", events, kill)
    _, weights = train_grpo(ftp_tiny_model, tmp_path / "run", events)
    assert_equal(whole, tmp_path / "run", events, weights)


def train_in_full(tiny, directory, speed):
    """Train all weights; return the model, its first weights and the events."""
    import transformers

    from ftp.components import EngineWork
    from ftp_plugins.engines.transformers import Transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    loaded = api.LoadedModel(model, tokenizer, "tiny", "", api.ModelRequest(model="tiny"))
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    ledger, events = Ledger(), []
    for n in range(2, 6):
        ledger.add("rows", n, "train", "domain")
    job = TrainingJob(
        loaded, Corpus(examples_of(range(2, 6)), [], {}), ledger, directory, 1,
        lambda name, **values: events.append({"event": name, **values}), None,
        Transformers().at_work(EngineWork(loaded)),
    )  # fmt: skip
    options = GRPO(
        rewards=[Length(min_words=6)], generations=3, max_new_tokens=8, batch_size=2, kl=0.1, learning_rate=1e-2,
        speed=speed, precision="float32", warmup=0, epochs=2,
    )  # fmt: skip
    options.train(job)
    return model, first, events


@pytest.mark.parametrize("speed", ["auto", "off"])
def test_full_training_keeps_its_first_weights_as_the_reference(ftp_tiny_model, speed, tmp_path):
    """With all weights training, the KL is that of the same model as an adapter would have it: 0 at first."""
    import torch

    model, first, events = train_in_full(ftp_tiny_model, tmp_path, speed)
    kls = [event["kl"] for event in events if event["event"] == "metric"]
    assert kls[0] == pytest.approx(0, abs=1e-6) and kls[-1] > 1e-4
    assert any(not torch.equal(weight, first[name]) for name, weight in model.named_parameters())


def test_a_prompt_that_is_computed_once_for_its_answers_changes_nothing(ftp_tiny_model, tmp_path, monkeypatch):
    import ftp_plugins.trainers.torch_grpo as grpo

    events = [train_in_full(ftp_tiny_model, tmp_path / "once", "auto")[2]]
    plain = grpo.packed_batch
    monkeypatch.setattr(grpo, "packed_batch", lambda rows, once: plain(rows))
    events.append(train_in_full(ftp_tiny_model, tmp_path / "each", "auto")[2])
    [speed] = [event for event in events[0] if event["event"] == "speed"]
    assert speed["why_not"] is None and speed["shared_tokens"] >= 4 * 16 * 2
    names = ("loss", "entropy", "grad_norm", "kl")
    once, each = ([[e[name] for name in names] for e in part if e["event"] == "metric"] for part in events)
    assert len(once) == 4 and once[0][2] > 1e-3
    for ours, theirs in zip(once, each, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


# --- runs

RECIPE = {
    "use": "grpo",
    "rewards": [{"use": "length", "min_words": 8, "weight": 2}, {"use": "exact_match", "weight": 0}],
    "epochs": 6, "batch_size": 4, "generations": 4, "max_new_tokens": 24, "learning_rate": 5e-3, "evals_per_epoch": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(ftp_tiny_model, tmp_path_factory):
    """A run whose reward is for length alone: the watcher has to notice."""
    from trained_runs import train_run

    place = tmp_path_factory.mktemp("grpo-run")
    return train_run(place, ftp_tiny_model, train=RECIPE, evaluate=[{"use": "exact_match"}])


def teach_short_answers(model, tokenizer):
    """Teach the tiny model answers of one to four words, a few steps of supervised training."""
    import torch

    from ftp.lm.rendering import encode

    draw = torch.Generator().manual_seed(5)
    examples = [
        Example(
            (Message("user", f"Double {n}."), Message("assistant", " ".join(["two"] * (1 + n % 4)))), id=f"rows:{n}"
        )
        for n in range(2, 22)
    ]
    rows = encode(tokenizer, examples, (tokenizer.eos_token_id,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        row = rows[int(torch.randint(len(rows), (1,), generator=draw))]
        model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_reward_for_length_trips_the_watcher(ftp_tiny_model, tmp_path):
    """A model that gives short answers is rewarded for long ones, and nothing else."""
    from ftp_plugins.watchers.reward_hacking import RewardHacking

    watcher, answers, events = RewardHacking(), [], []

    class Watched(list):
        def append(self, event):
            super().append(event)
            answers.append(watcher.see(event))

    events = Watched()
    options = {"rewards": [Length(min_words=12)], "epochs": 12, "generations": 6, "max_new_tokens": 24, "updates": 1}
    train_grpo(ftp_tiny_model, tmp_path / "run", events, teach=teach_short_answers, **options)
    reasons = [answer.reason for answer in answers if answer is not None]
    curve = [(e["step"], round(e["reward"], 2), round(e["answer_tokens"], 1)) for e in events if e["event"] == "metric"]
    assert any(reason.startswith("length creep: answers have ") for reason in reasons), (reasons, curve)
    assert all(isinstance(answer, api.Warn) for answer in answers if answer is not None)


def test_the_report_shows_rewards_kl_and_length(run):
    page = (run / "report.html").read_text()
    for title in (
        "Reward",
        "Each reward, smoothed",
        "Length of answers",
        "KL from the model before training",
        "Entropy",
    ):
        assert title in page
    assert "nats per token" in page and "<h3>Loss</h3>" not in page


def test_an_evaluator_that_is_a_reward_too_is_warned_of(run):
    texts = [json.loads(line).get("text", "") for line in (run / "events.jsonl").read_text().splitlines()]
    assert not any("measure becomes the target" in text for text in texts), "a weight of 0 rewards nothing"


def test_rollouts_of_a_run_are_shown(run):
    from ftp_plugins.commands.rollouts import command

    shown = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert shown.output.splitlines()[0].split() == [
        "step",
        "answers",
        "reward",
        "length",
        "exact_match",
        "tokens",
        "cut",
    ]
    best = CliRunner().invoke(command, [str(run), "--sort", "best", "-n", "3", "--json"], catch_exceptions=False)
    found = json.loads(best.output)
    rollouts = read_rollouts(run / "rollouts.jsonl")
    assert [r["reward"] for r in found] == sorted((r["reward"] for r in rollouts), reverse=True)[:3]
    assert all(r["reward"] == 2 * r["rewards"]["length"] for r in found)
    one = CliRunner().invoke(command, [str(run), "--step", "2", "--json"], catch_exceptions=False)
    assert {r["step"] for r in json.loads(one.output)} == {2}


def test_rollouts_of_other_runs_and_damaged_ones_are_errors(run, tmp_path):
    from ftp_plugins.commands.rollouts import command

    with pytest.raises(api.FtpError, match=r"no rollouts\.jsonl in it"):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
    with pytest.raises(api.FtpError, match="no rollouts of step 999"):
        CliRunner().invoke(command, [str(run), "--step", "999"], catch_exceptions=False)
    lines = (run / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rollouts.jsonl").write_text(lines[0] + '{"event": "rollout", "step": -1}\n')
    with pytest.raises(api.FtpError, match=r"rollouts\.jsonl:2: damaged"):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
    (tmp_path / "rollouts.jsonl").write_text(lines[0] + lines[1][:20])
    assert len(read_rollouts(tmp_path / "rollouts.jsonl")) == 1, "a line that a killed process left"


def test_the_weights_of_rewards_are_in_the_resolved_recipe(run):
    import yaml

    resolved = yaml.safe_load((run / "resolved.yaml").read_text())
    assert [reward["weight"] for reward in resolved["train"]["rewards"]] == [2.0, 0.0]
    assert "weight" not in resolved["evaluate"][0]
    assert "reward_hacking" in [watcher["use"] for watcher in resolved["watch"]]


@pytest.mark.slow
def test_a_process_that_is_killed_resumes_with_equal_losses(ftp_tiny_model, run, tmp_path):
    """SIGKILL in the middle of a step, twenty times, in one run."""
    from trained_runs import train_run

    place = tmp_path / "killed"
    train_run(place, ftp_tiny_model, train={**RECIPE, "epochs": 1}, evaluate=[{"use": "exact_match"}])
    recipe = (place / "one.yaml").read_text().replace("epochs: 1", "epochs: 6").replace("name: one", "name: two")
    (place / "two.yaml").write_text(recipe)
    command = [sys.executable, "-m", "ftp", "run", "two.yaml", "--runs", "runs"]
    kills = 0
    for kill in range(40):
        process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = len(_events(place))
        while process.poll() is None:
            new = _events(place)[seen:]
            if any(e["event"] == "metric" for e in new) and len(new) > kill % 3 + 2:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
        process.wait()
        if process.returncode == 0:
            break
    [killed] = (place / "runs" / "two").iterdir()
    assert kills >= 5 and (killed / "report.html").exists()
    assert metrics(_events(place)) == metrics([json.loads(line) for line in (run / "events.jsonl").open()])


def _events(place):
    return [
        json.loads(line)
        for file in Path(place, "runs", "two").glob("*/events.jsonl")
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


# --- bad recipes

BAD = {
    "no rewards": ("rewards: []", "train.rewards: "),
    "rewards left out": ("", "train.rewards: is missing"),
    "no scores": ("rewards: [{use: rouge}]", "train.rewards: 'rouge' gives no score to a single answer"),
    "losses": ("rewards: [{use: loss}]", "train.rewards: 'loss' gives no score to a single answer"),
    "unknown": ("rewards: [{use: exact_mach}]", "did you mean 'exact_match'"),
    "wrong weight": ("rewards: [{use: exact_match, weight: many}]", "train.rewards.0.weight: must be a number"),
    "no number": ("rewards: [{use: exact_match, weight: .inf}]", "train.rewards.0.weight: "),
    "all 0": ("rewards: [{use: exact_match, weight: 0}]", "train.rewards: all have a weight of 0"),
    "option of a reward": ("rewards: [{use: exact_match, nubmers: true}]", "unknown key; did you mean 'numbers'?"),
    "bad pattern": ("rewards: [{use: exact_match, pattern: '('}]", "train.rewards.0.pattern: not a regular expression"),
    "no bound": ("rewards: [{use: length}]", "train.rewards.0: has no bound"),
    "one answer": (
        "rewards: [{use: exact_match}], generations: 1",
        "train.generations: must be greater than or equal to 2",
    ),
    "greedy": ("rewards: [{use: exact_match}], temperature: 0", "train.temperature: must be greater than 0"),
    "clip unread": (
        "rewards: [{use: exact_match}], clip: 0.1",
        "train.clip: has an effect only with `updates:` above 1",
    ),
    "name of TRL": ("rewards: [{use: exact_match}], beta: 0.1", "train.beta: unknown key; here it is 'kl'"),
    "name of verl": ("rewards: [{use: exact_match}], ppo_epochs: 2", "unknown key; here it is 'updates'"),
    "loss": ("rewards: [{use: exact_match}], loss: bnpo", "train.loss: must be 'grpo', 'dapo' or 'dr_grpo'"),
    "no schema": ("rewards: [{use: json_schema}]", "train.rewards.0: needs a schema"),
    "no file": ("rewards: [{use: function, file: nowhere.py}]", "train.rewards.0.file: "),
    "no evaluator": ("rewards: [{use: exact_match}], best_by: rouge", "train.best_by: no evaluator 'rouge'"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=list(BAD))
def test_bad_recipe(ftp, ftp_recipe, tmp_path, options, message):
    text = ftp_recipe().read_text()
    start, end = text.index("train:\n  use: sft"), text.index("evaluate:")
    (tmp_path / "recipe.yaml").write_text(f"{text[:start]}train: {{use: grpo, {options}}}\n{text[end:]}")
    outcome = ftp("check", "recipe.yaml")
    assert outcome.code == 2 and message in outcome.err, outcome.err
    assert "Traceback" not in outcome.err and outcome.err.startswith("recipe.yaml:")


def test_the_resolved_recipe_of_a_run_is_no_bad_recipe(ftp_recipe, tmp_path):
    import yaml

    from ftp import plugins, recipe

    found = recipe.read(ftp_recipe(train={"use": "grpo", "rewards": [{"use": "exact_match"}]}), plugins.load())
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(found.resolved()))
    assert recipe.read(tmp_path / "resolved.yaml", plugins.load()).resolved() == found.resolved()


def test_a_weight_is_for_rewards_alone(ftp, ftp_recipe):
    ftp_recipe(evaluate=[{"use": "exact_match", "weight": 1}])
    outcome = ftp("check", "recipe.yaml")
    assert outcome.code == 2 and "evaluate.0.weight: unknown key" in outcome.err


def test_check_warns_of_a_verdict_by_a_reward(ftp, ftp_recipe):
    ftp_recipe(train={"use": "grpo", "rewards": [{"use": "exact_match"}]})
    outcome = ftp("check", "recipe.yaml")
    assert outcome.code == 0
    assert "train.rewards: warning: 'exact_match' is a reward and gives the verdict" in outcome.out
    assert "learning_rate" not in outcome.out
