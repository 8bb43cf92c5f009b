"""Whole runs on a tiny model, through the real command."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from ftp.cli import cli
from ftp.errors import FtpError
from ftp.lm.torch_generate import generate
from ftp.options import AnswerOptions
from ftp.records.answers import read_answers
from ftp.types import LoadedModel
from ftp_plugins.loaders.huggingface import HuggingFace


def ftp(*arguments):
    """Run a command in this process; the libraries are imported once for all tests."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def only_run(root):
    [run] = root.glob("*/2*")
    return run


@pytest.fixture
def recipe(ftp_recipe, ftp_tiny_model):
    def write(**overrides):
        model = {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"}
        return ftp_recipe(**{"model": model, "answers": {"max_new_tokens": 8}, **overrides})

    return write


@pytest.mark.parametrize("adapter", ["lora", "qlora", "full"])
def test_a_run_leaves_everything_that_tells_its_story(recipe, tmp_path, adapter):
    file = recipe(
        adapter={"use": adapter} if adapter == "full" else {"use": adapter, "r": 4},
        evaluate=[{"use": "loss"}, {"use": "exact_match"}, {"use": "rouge"}],
    )
    result = ftp("run", file, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path / "runs")

    lines = result.stdout.strip().split("\n")
    assert lines[-1] == str(run / "report.html")
    assert len(lines) == 4 and all("base" in line and "tuned" in line for line in lines[:3])

    names = {path.name for path in run.iterdir()}
    assert names >= {
        "recipe.yaml", "resolved.yaml", "run.lock.json", "stages.json", "ledger.parquet", "events.jsonl", "model",
        "answers", "evaluation.json", "report.html", "README.md", "training.json", "data",
    }  # fmt: skip
    assert not list(run.rglob("*.part"))
    assert list(json.loads((run / "stages.json").read_text())) == [
        "data",
        "base",
        "train",
        "tuned",
        "evaluate",
        "report",
    ]
    assert (run / "recipe.yaml").read_text() == file.read_text()

    lock = json.loads((run / "run.lock.json").read_text())
    assert set(lock) == {"recipe", "data", "packages", "plugins", "hardware", "model", "base_model"}
    assert len(lock["data"]) == 2
    assert lock["model"]["quantization"] == (
        {"scheme": "nf4", "double": True, "compute_dtype": lock["model"]["compute"]} if adapter == "qlora" else None
    )
    assert list((run / "model").glob("*.safetensors")) and not list((run / "model").glob("*.bin"))

    ledger = pq.read_table(run / "ledger.parquet").to_pylist()
    assert len(ledger) == 16 and len({row["id"] for row in ledger}) == 16
    assert {row["split"]: row["id"] for row in ledger}.keys() == {"train", "validation", "eval:heldout"}
    assert all(row["trained_tokens"] > 0 for row in ledger if row["split"] != "eval:heldout")
    said = pq.read_table(run / "answers" / "tuned-heldout.parquet").to_pylist()
    assert [row["reference"] for row in said] == [f"{n} doubled is {2 * n}." for n in range(14, 18)]

    page = (run / "report.html").read_text()
    assert "http-equiv" in page and page.count("<script") == 1 and "<svg" in page
    assert not [word for word in ("src=", "<link", "@import") if word in page]


def test_the_base_that_answered_is_the_model_with_the_adapter_off(recipe, ftp_tiny_model, tmp_path):
    import peft

    from ftp.data.examples import read_examples

    ftp("run", recipe(train={"learning_rate": 1e-2, "epochs": 3}), "--runs", tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu")
    loaded = loader.load(loader.describe())
    model = peft.PeftModel.from_pretrained(loaded.model, run / "model")
    tuned = LoadedModel(model, loaded.tokenizer, "tuned", "", loaded.request)
    examples = read_examples(run / "data" / "eval-heldout.arrow")
    options = AnswerOptions(max_new_tokens=8)
    assert generate(tuned, examples, options) == read_answers(run / "answers" / "tuned-heldout.parquet")[0]
    with model.disable_adapter():
        assert generate(tuned, examples, options) == read_answers(run / "answers" / "base-heldout.parquet")[0]


def test_an_equal_run_is_not_done_twice_and_a_changed_one_is_new(recipe, tmp_path):
    file = recipe()
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    run = only_run(tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}

    again = ftp("run", file, "--runs", tmp_path / "runs")
    assert again.exit_code == 0 and "has been run on the same inputs" in again.stderr
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {".lock"}

    rows = (tmp_path / "train.jsonl").read_text().replace("Double 2.", "Double two.")
    (tmp_path / "train.jsonl").write_text(rows)
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    assert len(list((tmp_path / "runs").glob("*/2*"))) == 2
    assert ftp("run", file, "--runs", tmp_path / "runs", "--new").exit_code == 0
    assert len(list((tmp_path / "runs").glob("*/2*"))) == 3


def test_a_run_killed_after_training_goes_on_from_the_trained_weights(recipe, tmp_path):
    file = recipe(train={"epochs": 2, "learning_rate": 1e-2})
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    run = only_run(tmp_path / "runs")
    whole = (run / "evaluation.json").read_text()
    weights = (run / "model" / "adapter_model.safetensors").stat().st_mtime_ns

    stages = json.loads((run / "stages.json").read_text())
    (run / "stages.json").write_text(json.dumps({name: stages[name] for name in ("data", "base", "train")}))
    (run / "evaluation.json").unlink()
    (run / "answers" / "tuned-heldout.parquet").unlink()
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    assert only_run(tmp_path / "runs") == run
    assert (run / "evaluation.json").read_text() == whole
    assert (run / "model" / "adapter_model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.slow
def test_a_run_killed_for_real_is_taken_up_again(recipe, tmp_path):
    file = recipe(train={"epochs": 40, "evals_per_epoch": 0.05})
    command = [sys.executable, "-m", "ftp", "run", str(file), "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 240
    while not any("metric" in f.read_text() for f in (tmp_path / "runs").glob("*/*/events.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    held = ftp("run", file, "--runs", tmp_path / "runs")
    assert isinstance(held.exception, FtpError) and f"in use by process {process.pid}" in str(held.exception)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run = only_run(tmp_path / "runs")
    assert list(json.loads((run / "stages.json").read_text())) == ["data", "base"]

    base = (run / "answers" / "base-heldout.parquet").stat().st_mtime_ns
    done = ftp("run", file, "--runs", tmp_path / "runs")
    assert done.exit_code == 0, done.output
    assert only_run(tmp_path / "runs") == run
    assert (run / "answers" / "base-heldout.parquet").stat().st_mtime_ns == base


def test_what_models_and_rows_say_is_escaped_in_the_reports(recipe, tmp_path):
    evil = "<script>alert(1)</script> | **bold** <img src=x onerror=alert(2)>"
    file = recipe(data={"curate": [{"use": "decontaminate", "policy": "report"}]})
    for name in ("train", "heldout"):
        rows = [{"instruction": f"{evil} {name} {n}", "response": evil} for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    run = only_run(tmp_path / "runs")
    page = (run / "report.html").read_text()
    assert "&lt;script&gt;" in page and page.count("<script") == 1 and "<img" not in page
    assert "<script" not in (run / "README.md").read_text()


def test_no_secret_is_written(recipe, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "sk-very-secret-0123456789")
    assert ftp("run", recipe(), "--runs", tmp_path / "runs").exit_code == 0
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes(), path


def test_reports_can_be_written_again_and_runs_are_listed(recipe, tmp_path):
    assert ftp("run", recipe(), "--runs", tmp_path / "runs").exit_code == 0
    run = only_run(tmp_path / "runs")
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    result = ftp("report", run)
    assert result.exit_code == 0 and (run / "report.html").read_text() == page
    [record] = json.loads(ftp("runs", "--runs", tmp_path / "runs", "--json").stdout)
    assert record["state"] == "finished" and record["scores"].keys() == {"heldout: exact_match score"}
    assert "small" in ftp("runs", "--runs", tmp_path / "runs").stdout
    unfinished = ftp("report", tmp_path)
    assert "not a run directory" in str(unfinished.exception)


def test_bad_rows_can_be_dropped_and_the_ledger_says_so(recipe, tmp_path):
    source = {"path": "train.jsonl", "format": {"use": "instruct"}, "on_bad_row": "drop"}
    file = recipe(data={"train": [source]})
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write('{"instruction": "Double 99."}\nnot json\n')
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    ledger = pq.read_table(only_run(tmp_path / "runs") / "ledger.parquet").to_pylist()
    dropped = {row["line"]: row["reason"] for row in ledger if row["fate"] == "dropped"}
    assert dropped.keys() == {13, 14} and "missing column" in dropped[13] and "broken JSON" in dropped[14]
    assert len(ledger) == 18


def test_a_plugin_of_one_file_scores_a_run(recipe, tmp_path):
    plugin = tmp_path / "my_eval.py"
    plugin.write_text(
        '''"""Scores an answer by its length."""
import ftp


class Letters(ftp.Evaluator):
    """Counts letters."""

    def score(self, example: ftp.Example, answer: str) -> float:
        return float(len(answer))


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"letters": Letters}
'''
    )
    file = recipe(evaluate=[{"use": "letters"}])
    result = ftp("run", file, "-p", plugin, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path / "runs")
    [evaluation] = json.loads((run / "evaluation.json").read_text())
    said = [row["answer"] for row in pq.read_table(run / "answers" / "tuned-heldout.parquet").to_pylist()]
    assert evaluation["metrics"][0]["tuned_scores"] == [len(text) for text in said]


def test_init_check_and_run_agree(tmp_path, ftp_tiny_model):
    for template in ("quickstart", "lora", "qlora", "full"):
        there = tmp_path / template
        assert ftp("init", there, "--template", template).exit_code == 0
        checked = ftp("check", there / "recipe.yaml")
        assert checked.exit_code == 0 and "336 rows" in checked.stdout
        assert (there / "recipe.yaml").read_text().startswith("# yaml-language-server: $schema=recipe.schema.json")
    twice = ftp("init", tmp_path / "lora")
    assert "already exists" in str(twice.exception)


def test_the_resolved_recipe_is_a_recipe(recipe, tmp_path):
    assert ftp("run", recipe(), "--runs", tmp_path / "runs").exit_code == 0
    run = only_run(tmp_path / "runs")
    resolved = yaml.safe_load((run / "resolved.yaml").read_text())
    assert resolved["adapter"]["dropout"] == 0.0 and resolved["train"]["max_grad_norm"] == 1.0
    assert ftp("check", run / "resolved.yaml").exit_code == 0


def test_another_content_of_a_plugin_file_is_another_run(recipe, tmp_path):
    plugin = tmp_path / "my_eval.py"
    text = """import ftp


class Constant(ftp.Evaluator):
    'Always the same.'

    def score(self, example: ftp.Example, answer: str) -> float:
        return 1.0


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"constant": Constant}
"""
    file = recipe(evaluate=[{"use": "constant"}])
    for value in ("1.0", "0.0"):
        plugin.write_text(text.replace("1.0", value))
        assert ftp("run", file, "-p", plugin, "--runs", tmp_path / "runs").exit_code == 0
    scores = {json.loads(f.read_text())[0]["metrics"][0]["tuned"] for f in tmp_path.glob("runs/*/*/evaluation.json")}
    assert scores == {0.0, 1.0}


def test_a_training_that_begins_again_starts_from_the_ledger_before_it(recipe, tmp_path):
    file = recipe(train={"max_length": 40, "overlong": "drop"})
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"instruction": "Go on. " * 50, "response": "On."}) + "\n")
    assert ftp("run", file, "--runs", tmp_path / "runs").exit_code == 0
    run = only_run(tmp_path / "runs")
    before = pq.read_table(run / "ledger.parquet").to_pylist()
    assert [row["reason"] for row in before if row["fate"] == "dropped"] == ["longer than 40 tokens"]
    stages = json.loads((run / "stages.json").read_text())
    (run / "stages.json").write_text(json.dumps({name: stages[name] for name in ("data", "base")}))
    again = ftp("run", file, "--runs", tmp_path / "runs")
    assert again.exit_code == 0, again.output
    assert pq.read_table(run / "ledger.parquet").to_pylist() == before


def test_a_curator_that_drops_rows_in_silence_is_an_error(recipe, tmp_path):
    plugin = tmp_path / "half.py"
    plugin.write_text(
        """import dataclasses
import ftp


class Half(ftp.Curator):
    'Keeps half.'

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        return dataclasses.replace(corpus, train=corpus.train.take(range(len(corpus.train) // 2)))


@ftp.hookimpl
def ftp_curators() -> dict[str, type[ftp.Curator]]:
    return {"half": Half}
"""
    )
    result = ftp("run", recipe(data={"curate": [{"use": "half"}]}), "-p", plugin, "--runs", tmp_path / "runs")
    assert "half: 5 rows of train, train.jsonl:" in str(result.exception)


def test_an_eval_set_that_cant_be_scored_is_refused_before_the_model_is_loaded(recipe, tmp_path):
    file = recipe(evaluate=[{"use": "exact_match", "pattern": "Answer: (.+)"}])
    result = ftp("run", file, "--runs", tmp_path / "runs")
    said = "heldout.jsonl:1: exact_match: the pattern 'Answer: (.+)' finds nothing in the reference and in 3 more"
    assert said in str(result.exception)
    assert list(json.loads((only_run(tmp_path / "runs") / "stages.json").read_text())) == ["data"]
