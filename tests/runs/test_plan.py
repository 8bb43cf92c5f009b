"""`ftp plan` against what the run then does; several seeds."""

import json

import pytest

from ftp.cli.seeds import in_words, over_seeds
from ftp.runs.directory import RunDirectory
from ftp.stats.paired import paired_metric
from ftp.types import Evaluation, FinishedRun


@pytest.fixture
def small(ftp_recipe, ftp_tiny_model):
    def write(**overrides):
        return ftp_recipe(**{"model": {"id": str(ftp_tiny_model)}, "evaluate": [{"use": "loss"}], **overrides})

    return write


COUNTED = ("steps", "rows", "tokens_per_epoch", "trained_tokens", "trainable_parameters", "total_parameters")


@pytest.mark.thin(3)
@pytest.mark.parametrize("adapter", ["lora", "qlora", "full"])
def test_the_plan_is_what_the_run_does(ftp, small, tmp_path, adapter):
    train = {"epochs": 2, "batch_size": 4, "evals_per_epoch": 1.5}
    file = small(adapter={"use": adapter}, train=train)
    result = ftp("plan", str(file), "--json")
    assert result.code == 0, result.err
    planned = json.loads(result.out)
    assert not (tmp_path / "runs").exists(), "a plan makes no run"

    assert ftp("run", str(file)).code == 0
    [path] = (tmp_path / "runs" / "small").iterdir()
    run = RunDirectory(path)
    events = run.events()
    [told] = [event for event in events if event["event"] == "plan"]
    assert {name: told[name] for name in COUNTED} == {name: planned[name] for name in COUNTED}
    for name, event in (("evaluations", "validation"), ("checkpoints", "checkpoint")):
        assert planned[name] == told[name] == sum(e["event"] == event for e in events), name
    training = run.read_json("training.json")
    for name in ("steps", "trained_tokens", "trainable_parameters", "total_parameters"):
        assert planned[name] == training[name]
    model = sum(f.stat().st_size for f in (path / "model").iterdir() if "tokenizer" not in f.name) / 1e6
    assert planned["model_mb"] == pytest.approx(model, rel=0.1, abs=0.1)
    assert planned["seconds"] > 0 and 50 < planned["measured_mb"] < planned["memory_mb"]
    assert planned["seconds"] == pytest.approx(sum(planned["seconds_of"].values()))
    assert len(planned["timed"]) >= 4


def test_the_plan_in_words(ftp, small):
    result = ftp("plan", str(small(train={"epochs": 1})))
    assert result.code == 0, result.err
    names = [line.split()[0] for line in result.out.splitlines() if line[0] != " "]
    assert names == ["parameters", "data", "steps", "time", "products", "memory", "disk"]
    assert "not counted: running both models on the eval sets" in result.out


def test_planning_leaves_the_weights_alone(ftp_tiny_model, tmp_path):
    import torch

    from ftp.components import TrainingJob
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.adapters.full import Full
    from ftp_plugins.formatters.pairs import Instruct
    from ftp_plugins.loaders.huggingface import HuggingFace
    from ftp_plugins.trainers.sft import SFT

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": f"{n}?", "response": "so " * n}) + "\n" for n in range(1, 9)))
    loader, adapter = HuggingFace(id=str(ftp_tiny_model), device="cpu"), Full()
    loaded = adapter.apply(loader.load(adapter.prepare(loader.describe())))
    recipe = Data(train=[Source(path=str(rows), format=Instruct())], validation=0.25)
    corpus, ledger = build_corpus(recipe, tmp_path / "data", tmp_path, seed=1)
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    job = TrainingJob(loaded, corpus, ledger, tmp_path / "checkpoints", 1, lambda event, **values: None)
    planned = SFT(batch_size=2, weight_decay=0.1).plan(job)
    [checkpoint] = job.directory.glob("step-*")
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    assert planned["checkpoint_mb"] == pytest.approx(size, abs=1)
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.model.named_parameters())


BAD = """
import ftp

class Silent(ftp.Trainer):
    '''Trains nothing.'''

    def train(self, job):
        raise NotImplementedError

@ftp.hookimpl
def ftp_trainers():
    return {"silent": Silent}
"""


@pytest.mark.parametrize(
    ("command", "says"),
    [("plan", "'silent' can't estimate what training would take"), ("lr-find", "'silent' has no range test")],
)
def test_a_trainer_that_cannot_is_named(ftp, small, tmp_path, command, says):
    (tmp_path / "silent.py").write_text(BAD)
    result = ftp(command, str(small(train={"use": "silent"})), "-p", "silent.py")
    assert result.code == 2 and says in result.err and "Traceback" not in result.err


def test_the_warning_is_a_note_of_the_run(ftp, small, tmp_path):
    assert ftp("run", str(small(train={"learning_rate": 0.01}))).code == 0
    [path] = (tmp_path / "runs" / "small").iterdir()
    notes = [event["text"] for event in RunDirectory(path).events() if event["event"] == "note"]
    assert any(note.startswith("train.learning_rate: 1e-2 is above the usual 5e-5 to 2e-4") for note in notes)


# --- several seeds ---------------------------------------------------------------------------------------------------


def test_several_seeds_are_several_runs_and_one_spread(ftp, small, tmp_path):
    file = small(train={"learning_rate": 5e-3})
    result = ftp("run", str(file), "--seeds", "3")
    assert result.code == 0, result.err
    runs = sorted((tmp_path / "runs" / "small").iterdir(), key=lambda path: path.name)
    assert len(runs) == 3
    found = json.loads(next(path for path in runs if (path / "seeds.json").exists()).joinpath("seeds.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [42, 43, 44]
    tuned = []
    for run in found["runs"]:
        directory = RunDirectory(tmp_path / run["directory"])
        tuned.append(directory.read_json("evaluation.json")[0]["metrics"][0]["tuned"])
    metric = found["metrics"][0]
    assert metric["tuned"]["runs"] == pytest.approx(tuned)
    assert metric["tuned"]["mean"] == pytest.approx(sum(tuned) / 3)
    assert metric["tuned"]["deviation"] > 0
    assert "over 3 seeds" in result.out

    again = ftp("run", str(file), "--seeds", "3")
    assert again.code == 0
    assert len(list((tmp_path / "runs" / "small").iterdir())) == 3, "equal runs are not done again"


def test_one_seed_is_a_plain_run(ftp, small, tmp_path):
    assert ftp("run", str(small()), "--seeds", "1").code == 0
    [path] = (tmp_path / "runs" / "small").iterdir()
    assert not (path / "seeds.json").exists()
    assert ftp("run", str(small()), "--seeds", "0").code == 2


def test_the_spread_is_that_of_the_figures(tmp_path):
    from statistics import mean, stdev

    def run(seed, tuned):
        metric = paired_metric("score", [0.0] * len(tuned), tuned)
        evaluation = Evaluation((metric,), evaluator="exact_match", evals="heldout", n=len(tuned))
        return FinishedRun(tmp_path, "a", str(seed), {"seed": seed}, {}, {}, [evaluation], [], [])

    scores = [[1.0, 0.5, 0.0], [1.0, 1.0, 0.0], [0.5, 0.5, 0.5]]
    found = over_seeds([run(seed, tuned) for seed, tuned in enumerate(scores)])
    [metric] = found["metrics"]
    assert metric["tuned"]["mean"] == pytest.approx(mean(map(mean, scores)))
    assert metric["tuned"]["deviation"] == pytest.approx(stdev(map(mean, scores)))
    assert metric["difference"]["runs"] == metric["tuned"]["runs"]
    assert in_words(metric).startswith("heldout, exact_match score: base 0.000, tuned 0.556 ± 0.096 between runs")
