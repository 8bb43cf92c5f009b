"""The parts of `ftp.lm.training` given to a trainer that FTP knows nothing of: TRL's DPOTrainer."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

import ftp
from ftp.components import TrainingJob
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.runs.events import done_until

PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Double {n}."}],
        "chosen": [{"role": "assistant", "content": f"{n} doubled is {2 * n}." + " Really." * (n % 3)}],
        "rejected": [{"role": "assistant", "content": f"I can't double {n}."}],
    }
    for n in range(2, 22)
]
STEPS = list(range(1, 9))
"""Sixteen pairs, two at a time, one epoch; a validation and a checkpoint at 0, 3, 6 and 8."""


class Killed(BaseException):
    """What a process that is killed doesn't live to see."""

    @classmethod
    def at(cls, name, step):
        """What hears of events and dies at one of them."""

        def hear(event):
            if (event["event"], event.get("step")) == (name, step):
                raise cls

        return hear


@dataclass
class Life:
    """A training: its events over all its processes, and the result if it came to its end."""

    events: list
    result: ftp.TrainResult | None = None
    weights: dict | None = None

    def curve(self, name):
        """The loss of each step that still holds; no step twice."""
        values = [(e["step"], e["loss"]) for e in done_until(self.events) if e["event"] == name]
        assert len({step for step, _ in values}) == len(values)
        return dict(values)

    def of(self, name):
        return [event for event in self.events if event["event"] == name]


def train_dpo(tiny: Path, directory: Path, life: Life | None = None, heard=lambda event: None) -> Life:
    """Train with everything new but what is on the disk.

    Args:
        life: gets the events and the result; that of an earlier process, where the training goes on.
        heard: called with each event; what it returns is a watcher's answer.
    """
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model

    from ftp.lm.training.torch_parts import TrainingParts
    from ftp.lm.training.torch_run import train
    from ftp.lm.training.torch_trainer import TrainerWithParts

    class DPO(TrainerWithParts, trl.DPOTrainer):
        """All that a third party writes."""

    transformers.set_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]))
    life = life or Life([])

    def emit(name, **values):
        event = {"event": name, **values}
        life.events.append(event)
        return heard(event)

    loaded = ftp.LoadedModel(model, tokenizer, str(tiny), "", ftp.ModelRequest(model=str(tiny)))
    job = TrainingJob(loaded, Corpus([], [], {}), Ledger(), directory, 1, emit)
    args = trl.DPOConfig(
        output_dir=str(directory),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=3,
        save_steps=3,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=1,
    )
    trainer = DPO(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(PAIRS[:16]),
        eval_dataset=Dataset.from_list(PAIRS[16:]),
        processing_class=tokenizer,
    )
    answers = [len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in trainer.train_dataset]
    lengths = [2 * len(row["prompt_ids"]) + n for row, n in zip(trainer.train_dataset, answers, strict=True)]
    trainer.use_parts(TrainingParts(job, lengths, sum(answers), log_also=("rewards/margins",)))
    life.result = train(trainer)
    life.weights = {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}
    return life


def assert_equal(one: Life, other: Life) -> None:
    """The same losses and the same weights, to the bit."""
    import torch

    assert one.curve("metric") == other.curve("metric")
    assert one.curve("validation") == other.curve("validation")
    assert all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())


@pytest.fixture(scope="module")
def whole(ftp_tiny_model, tmp_path_factory):
    """A training in one piece."""
    return train_dpo(ftp_tiny_model, tmp_path_factory.mktemp("dpo") / "checkpoints")


def test_dpo_trains_and_tells_of_it(whole):
    assert list(whole.curve("metric")) == STEPS and whole.result.steps == 8
    assert all(event["rewards/margins"] is not None for event in whole.of("metric"))
    (plan,) = whole.of("plan")
    assert (plan["steps"], plan["rows"], plan["validation_rows"], plan["evaluations"]) == (8, 16, 4, 4)
    losses = whole.curve("validation")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "DPO's own measure: ln 2 where the policy is the reference"
    assert losses[whole.result.best_step] == min(losses[step] for step in (3, 6, 8)) < losses[0]


def test_dpo_rehearses_the_largest_batch(whole):
    names = [event["event"] for event in whole.events]
    (rehearsal,) = whole.of("rehearsal")
    assert names.index("rehearsal") < names.index("metric")
    assert rehearsal["rows"] == 2 and rehearsal["tokens"] > whole.of("plan")[0]["tokens_per_epoch"] / 8
    assert whole.of("metric")[0]["tokens"] < rehearsal["tokens"] + 1, "tokens of the rehearsal don't count"


@pytest.mark.parametrize(
    ("name", "step", "resumes_at"),
    [("metric", 5, 3), ("validation", 6, 3), ("checkpoint", 8, 8)],
    ids=["between checkpoints", "before a checkpoint", "after the last checkpoint"],
)
def test_dpo_that_is_killed_comes_to_the_same(whole, ftp_tiny_model, tmp_path, name, step, resumes_at):
    life = Life([])
    with pytest.raises(Killed):
        train_dpo(ftp_tiny_model, tmp_path / "checkpoints", life, Killed.at(name, step))
    again = train_dpo(ftp_tiny_model, tmp_path / "checkpoints", life)
    assert [event["step"] for event in again.of("resume")] == [resumes_at]
    assert len(again.of("rehearsal")) == 1
    assert_equal(again, whole)


def test_dpo_that_is_interrupted_saves_and_comes_to_the_same(whole, ftp_tiny_model, tmp_path):
    def interrupt(event):
        if (event["event"], event.get("step")) == ("metric", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    life = Life([])
    with pytest.raises(ftp.Interrupted):
        train_dpo(ftp_tiny_model, tmp_path / "checkpoints", life, interrupt)
    stopped = max(life.curve("metric"))
    assert stopped in (4, 5) and life.of("checkpoint")[-1]["step"] == stopped
    again = train_dpo(ftp_tiny_model, tmp_path / "checkpoints", life)
    assert again.of("resume")[-1]["step"] == stopped
    assert_equal(again, whole)


def test_a_watcher_stops_dpo(whole, ftp_tiny_model, tmp_path):
    answers = {("metric", 4): ftp.Stop("enough")}
    life = train_dpo(
        ftp_tiny_model, tmp_path / "checkpoints", heard=lambda e: answers.pop((e["event"], e.get("step")), None)
    )
    assert list(life.curve("metric")) == STEPS[:4] and life.result.steps == 4
    assert life.curve("metric") == {step: whole.curve("metric")[step] for step in STEPS[:4]}
    again = train_dpo(ftp_tiny_model, tmp_path / "checkpoints", life)
    assert again.result.steps == 4 and len(again.of("metric")) == 4, "a stop is for good"


def test_a_roll_back_of_dpo_goes_on_at_a_lower_rate(whole, ftp_tiny_model, tmp_path):
    answers = {("metric", 5): ftp.RollBack("a spike", factor=0.5)}
    life = train_dpo(
        ftp_tiny_model, tmp_path / "checkpoints", heard=lambda e: answers.pop((e["event"], e.get("step")), None)
    )
    (rollback,) = life.of("rollback")
    assert (rollback["step"], rollback["factor"]) == (3, 0.5)
    assert list(life.curve("metric")) == STEPS
    rates = {event["step"]: event["learning_rate"] for event in life.of("metric")}
    usual = {event["step"]: event["learning_rate"] for event in whole.of("metric")}
    assert all(rates[step] == pytest.approx(usual[step] * (0.5 if step > 3 else 1)) for step in STEPS)
    assert life.curve("metric")[8] != whole.curve("metric")[8]
