"""Training that is broken off and goes on: the same losses and the same weights as without."""

import errno
import gc
import json
import os

import pytest

import ftp
from ftp.components import TrainingJob
from ftp.lm.training import torch_checkpoints as checkpoints
from ftp.lm.training.torch_checkpoints import Checkpoints
from ftp.recipe.model import Data, Source
from ftp.runs.events import done_until
from ftp.stages.prepare_data import build_corpus
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.qlora import QLoRA
from ftp_plugins.formatters.pairs import Instruct
from ftp_plugins.loaders.huggingface import HuggingFace
from ftp_plugins.trainers.sft import SFT

ROWS = [
    (f"Name {n} things that are {word}.", f"{word} " * (n % 7 + 1)) for n, word in enumerate("abcdefghijklmnopqrstuvw")
]
OPTIONS = {"epochs": 2.5, "batch_size": 4, "gradient_accumulation": 2, "evals_per_epoch": 1, "learning_rate": 2e-3}
"""Three steps an epoch, the last one of half a batch; eight steps; validations at 0, 3, 6 and 8."""


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Accelerate collects garbage when training begins: the modules of this process need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Killed(BaseException):
    """What a process that is killed doesn't live to see."""


def rows_file(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps({"instruction": q, "response": a}) + "\n" for q, a in rows))
    return Source(path=str(path), format=Instruct())


def train(tiny, directory, adapter, events, kill=None, answers=None, watch=True, **options):
    """Train in `directory` with everything new but what is on the disk; break off after the event `kill`.

    Args:
        answers: what a watcher says to the event of this name and step, each once.
    """
    import transformers

    source = Data(
        train=[rows_file(directory / "rows.jsonl", ROWS)],
        validation=rows_file(directory / "watched.jsonl", ROWS[:5]) if watch else 0.0,
    )
    corpus, ledger = build_corpus(source, directory / "data", directory, seed=1)
    loader = HuggingFace(id=str(tiny), device="cpu")
    loaded = loader.load(adapter.prepare(loader.describe()))
    transformers.set_seed(1)
    loaded = adapter.apply(loaded)

    def emit(event, **values):
        events.append({"event": event, **values})
        if (event, values.get("step")) == kill:
            raise Killed
        return (answers or {}).pop((event, values.get("step")), None)

    job = TrainingJob(loaded, corpus, ledger, directory / "checkpoints", 1, emit)
    result = SFT(**{**OPTIONS, **options}).train(job)
    return result, {n: w.detach().clone() for n, w in result.model.model.named_parameters() if w.requires_grad}


def curve(events, name, key="loss"):
    """The value at each step that still holds, and no step twice."""
    found = [(e["step"], e[key]) for e in done_until(events) if e["event"] == name]
    steps = [step for step, _ in found]
    assert steps == sorted(set(steps)), steps
    return dict(found)


def same_weights(one, other):
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


KILLS = [
    ("checkpoint", 0),  # after the rehearsal
    ("metric", 2),  # inside an epoch, with no checkpoint in it
    ("validation", 3),  # the best is written, the checkpoint that knows of it is not
    ("checkpoint", 3),  # between two epochs
    ("metric", 7),
    ("checkpoint", 8),  # nothing is left to train
]


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("adapter", "options", "kills"),
    [
        (LoRA(r=4, dropout=0.2), {}, KILLS),
        (Full(), {}, KILLS[1::2]),
        (LoRA(r=4, dropout=0.2), {"speed": "off"}, KILLS[1:3]),
        (LoRA(r=4, dropout=0.2, init="pissa"), {"weight_decay": 0.1, "schedule": "cosine"}, KILLS[3:5]),
        (QLoRA(r=4), {"gradient_accumulation": 1, "epochs": 1.2}, [("metric", 2), ("checkpoint", 6)]),
    ],
    ids=["lora", "full", "lora, TRL's path", "pissa", "qlora"],
)
def test_training_that_was_broken_off_is_the_same_as_without(ftp_tiny_model, tmp_path, adapter, options, kills):
    whole, broken = [], []
    expected, weights = train(ftp_tiny_model, tmp_path / "whole", adapter, whole, **options)
    for kill in kills:
        with pytest.raises(Killed):
            train(ftp_tiny_model, tmp_path / "broken", adapter, broken, kill, **options)
    result, again = train(ftp_tiny_model, tmp_path / "broken", adapter, broken, **options)
    for key in ("loss", "grad_norm", "learning_rate", "tokens", "epoch"):
        assert curve(broken, "metric", key) == curve(whole, "metric", key), key
    assert curve(broken, "validation") == curve(whole, "validation")
    assert same_weights(again, weights)
    assert (result.steps, result.best_step) == (expected.steps, expected.best_step)
    assert [e["event"] for e in broken].count("rehearsal") == 1
    assert [e["step"] for e in broken if e["event"] == "validation"].count(0) == 1


def test_the_first_checkpoint_can_be_gone_on_from_without_validation_rows(ftp_tiny_model, tmp_path):
    adapter, whole, broken = LoRA(r=4, dropout=0.2), [], []
    _, weights = train(ftp_tiny_model, tmp_path / "whole", adapter, whole, watch=False)
    with pytest.raises(Killed):
        train(ftp_tiny_model, tmp_path / "broken", adapter, broken, ("metric", 2), watch=False)
    _, again = train(ftp_tiny_model, tmp_path / "broken", adapter, broken, watch=False)
    assert [e["step"] for e in broken if e["event"] == "resume"] == [0]
    assert [e["event"] for e in broken].count("rehearsal") == 1
    assert same_weights(again, weights)


def test_a_stop_holds_after_an_interruption(ftp_tiny_model, tmp_path):
    events, stop = [], {("metric", 4): ftp.Stop("enough")}
    with pytest.raises(Killed):
        train(ftp_tiny_model, tmp_path, LoRA(r=4), events, ("checkpoint", 4), stop)
    result, _ = train(ftp_tiny_model, tmp_path, LoRA(r=4), events)
    assert (result.steps, result.best_step) == (4, 3)
    assert max(curve(events, "metric")) == 4


def test_a_roll_back_holds_after_an_interruption(ftp_tiny_model, tmp_path):
    whole, broken, back = [], [], ftp.RollBack("up", factor=0.5)
    _, weights = train(ftp_tiny_model, tmp_path / "whole", Full(), whole, answers={("metric", 5): back})
    with pytest.raises(Killed):
        answers = {("metric", 5): back}
        train(ftp_tiny_model, tmp_path / "broken", Full(), broken, ("rollback", 3), answers)
    _, again = train(ftp_tiny_model, tmp_path / "broken", Full(), broken)
    rates = curve(broken, "metric", "learning_rate")
    assert rates == curve(whole, "metric", "learning_rate") and rates[4] < 0.5 * rates[3] < rates[3]
    assert curve(broken, "metric") == curve(whole, "metric")
    assert same_weights(again, weights)


def test_the_best_is_one_of_the_steps_that_hold(ftp_tiny_model, tmp_path):
    events, answers = [], {("validation", 6): ftp.RollBack("say it diverged", factor=0.0)}
    result, weights = train(ftp_tiny_model, tmp_path, Full(), events, answers=answers)
    # Step 6 was the best when it was undone; with a rate of 0 nothing is better than step 3 after it.
    assert result.best_step == 3 and result.steps == 8
    other = []
    with pytest.raises(Killed):
        train(ftp_tiny_model, tmp_path / "other", Full(), other, ("checkpoint", 3))
    from safetensors.torch import load_file

    assert same_weights(weights, load_file(tmp_path / "other" / "checkpoints" / "step-00000003" / checkpoints.WEIGHTS))


def test_a_signal_that_comes_with_a_roll_back_saves_nothing_of_what_is_undone(ftp_tiny_model, tmp_path):
    import signal

    events = []

    class Answers(dict):
        """Once, a signal comes while a watcher sends training back."""

        def pop(self, key, default):
            answer = super().pop(key, default)
            if answer is not default:
                signal.raise_signal(signal.SIGTERM)
            return answer

    answers = Answers({("validation", 6): ftp.RollBack("up", factor=0.5)})
    with pytest.raises(ftp.Interrupted) as caught:
        train(ftp_tiny_model, tmp_path, LoRA(r=4), events, answers=answers)
    assert caught.value.number == signal.SIGTERM
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [0, 3, 4]


# --- the directories -------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    found = Checkpoints(tmp_path / "run" / "checkpoints")
    with found.new(checkpoints.step_name(3)) as directory:
        (directory / "weights").write_text("good")
    return found


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def torch_failure():
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")


def safetensors_failure():
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")


@pytest.mark.parametrize("failure", [no_space, torch_failure, safetensors_failure])
def test_a_checkpoint_that_cant_be_written_leaves_the_one_before(kept, failure):
    with pytest.raises(ftp.ModelError) as caught, kept.new(checkpoints.step_name(6)) as directory:
        (directory / "weights").write_text("half")
        failure()
    said = str(caught.value)
    assert "step-00000006: the checkpoint can't be written: " in said and "step-00000003, is kept" in said
    assert said.endswith(f"Free some space and continue with `ftp resume {kept.directory.parent}`")
    assert [path.name for path in kept.directory.iterdir()] == ["step-00000003"]


def test_what_a_kill_leaves_half_written_is_no_checkpoint(kept):
    with pytest.raises(Killed), kept.new(checkpoints.step_name(6)) as directory:
        (directory / "weights").write_text("half")
        raise Killed
    assert kept.last() == kept.directory / "step-00000003"
    with kept.new(checkpoints.step_name(6)) as directory:
        assert list(directory.iterdir()) == []
    with kept.new(checkpoints.best_name(6)):
        pass
    kept.keep_only(6, 6)
    assert {path.name for path in kept.directory.iterdir()} == {"step-00000006", "best-00000006"}
    assert kept.last() == kept.directory / "step-00000006"


def test_a_best_of_before_a_resume_is_written_over(kept):
    for text in ("before", "after"):
        with kept.new(checkpoints.best_name(6)) as directory:
            (directory / "weights").write_text(text)
    assert (kept.best(6) / "weights").read_text() == "after"
    assert not list(kept.directory.glob("*.part"))


def test_weights_of_another_shape_are_refused(tmp_path):
    import torch

    checkpoints.save_weights(tmp_path, torch.nn.Linear(2, 3))
    with pytest.raises(ftp.ModelError, match="holds the weights of another model or adapter"):
        checkpoints.load_weights(tmp_path, torch.nn.Linear(2, 4))


# --- deterministic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [LoRA(r=4, dropout=0.2), Full()], ids=["lora", "full"])
def test_deterministic_training_gives_the_same_bits_and_leaves_torch_as_it_was(ftp_tiny_model, tmp_path, adapter):
    import torch

    found = [
        train(ftp_tiny_model, tmp_path / name, adapter, events := [], deterministic=True, epochs=1)[1] for name in "ab"
    ]
    assert same_weights(*found)
    assert events and not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_way_is_named():
    import torch

    from ftp.lm.training.torch_deterministic import deterministic

    with pytest.raises(ftp.ModelError, match=r"train\.deterministic: .*histc"), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("_histc_cuda does not have a deterministic implementation, but you set …")
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
