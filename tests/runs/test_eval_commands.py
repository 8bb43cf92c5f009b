"""`ftp eval` and `ftp compare`, leaks and Holm in the pipeline, cached answers; on a tiny model."""

import dataclasses
import json
import math
import os
import time

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ftp.cli import cli
from ftp.data.ledger import Ledger
from ftp.errors import DataError, FtpError, RunError
from ftp.options import AnswerOptions
from ftp.records.answers import write_answers
from ftp.results import finished
from ftp.runs.directory import RunDirectory
from ftp.stages import answer_cache
from ftp.stages.evaluate import leaked_rows
from ftp.stats.paired import holm
from ftp_plugins.engines.transformers import Transformers
from ftp_plugins.loaders.huggingface import HuggingFace

HELDOUT = {"path": "heldout.jsonl", "format": {"use": "instruct"}}


def ftp(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, FtpError | SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of answers for each test, and every generation counted."""
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


@pytest.fixture
def generated(monkeypatch):
    """The number of examples of every call that generates answers."""
    calls = []
    real = Transformers.answer

    def counted(engine, examples, options):
        calls.append(len(examples))
        return real(engine, examples, options)

    monkeypatch.setattr(Transformers, "answer", counted)
    return calls


@pytest.fixture
def recipe(ftp_recipe, ftp_tiny_model):
    def write(**overrides):
        model = {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"}
        evaluate = [{"use": "loss"}, {"use": "exact_match"}, {"use": "rouge"}]
        train = {"learning_rate": 1e-2}
        defaults = {"model": model, "answers": {"max_new_tokens": 8}, "evaluate": evaluate, "train": train}
        return ftp_recipe(**{**defaults, **overrides})

    return write


def run(file, root, *arguments):
    """Run a recipe; the new run's directory."""
    before = set(root.glob("*/2*"))
    result = ftp("run", file, "--runs", root, *arguments)
    assert result.exit_code == 0, result.output
    [new] = set(root.glob("*/2*")) - before
    return new


def evaluations(directory):
    return json.loads((directory / "evaluation.json").read_text())


def only(place):
    [found] = place.glob("evals/2*")
    return found


# --- the pipeline's side of the statistics ---------------------------------------------------------------------------


def test_p_values_are_adjusted_over_all_metrics_of_a_run(recipe, tmp_path):
    found = [m for e in evaluations(run(recipe(), tmp_path / "runs")) for m in e["metrics"]]
    assert [m["name"] for m in found] == ["nll", "perplexity", "score", "rouge1", "rouge2", "rougeL"]
    assert [m["p_adjusted"] for m in found] == holm([m["p_value"] for m in found])
    assert found[1]["p_adjusted"] is None and found[0]["p_adjusted"] >= found[0]["p_value"]


@pytest.mark.parametrize(("policy", "leaks"), [("report", True), ("drop", False)])
def test_every_metric_is_given_on_clean_and_leaked_rows(recipe, tmp_path, policy, leaks):
    file = recipe(data={"curate": [{"use": "decontaminate", "policy": policy, "paraphrases": "ignore"}]})
    rows = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    terms = [("notice term", "Thirty days."), ("governing law", "That of Norway."), ("liability cap", "Two fees.")]
    leaked = [
        json.dumps({"instruction": f"Tell me please what the {what} is.", "context": "", "response": answer}) + "\n"
        for what, answer in terms
    ]
    (tmp_path / "train.jsonl").write_text("".join([*rows, *leaked]))
    with (tmp_path / "heldout.jsonl").open("a") as stream:
        stream.writelines(leaked)
    found = evaluations(run(file, tmp_path / "runs"))
    for evaluation in found:
        if not leaks:
            assert evaluation["subsets"] == {} and not any("leak" in note for note in evaluation["notes"])
            continue
        assert "leaks: 3 of 7 rows are similar to a training row" in " ".join(evaluation["notes"])
        whole = {m["name"]: m for m in evaluation["metrics"] if m["base_scores"]}
        for part, rows in (("clean", slice(0, 4)), ("leaked", slice(4, 7))):
            assert [m["name"] for m in evaluation["subsets"][part]] == list(whole)
            for metric in evaluation["subsets"][part]:
                assert metric["tuned_scores"] == whole[metric["name"]]["tuned_scores"][rows]
    # Holm: all parts of all metrics are one family, and the whole another, so that leaks don't weaken its verdicts.
    whole = [m for e in found for m in e["metrics"]]
    parts = [m for e in found for part in e["subsets"].values() for m in part]
    for family in (whole, parts):
        assert [m["p_adjusted"] for m in family] == holm([m["p_value"] for m in family])
    if leaks:
        assert any(m["p_adjusted"] > m["p_value"] for m in parts if m["p_value"] is not None)
        assert {len(e["subsets"]) for e in found} == {2}


def test_an_eval_row_leaks_when_a_row_like_it_is_still_used(tmp_path):
    ledger = Ledger()
    for line in range(1, 5):
        ledger.add("train.jsonl", line, "train", "domain")
        ledger.find(f"train.jsonl:{line}", "decontaminate", "leak" if line < 4 else "paraphrase denied", f"e:{line}")
    ledger.drop("train.jsonl:1", by="decontaminate", reason="leak: e")
    ledger.truncate("train.jsonl:2", by="sft", reason="long")
    assert leaked_rows(ledger.findings(), lambda id: ledger.row(id)["fate"] != "dropped") == {"e:2", "e:3"}


def test_examples_without_a_score_are_left_out_and_counted(recipe, tmp_path):
    plugin = tmp_path / "my_eval.py"
    plugin.write_text(
        """import math
import ftp


class Letters(ftp.Evaluator):
    'Counts letters, of rows that have no 14.'

    def score(self, example: ftp.Example, answer: str) -> float:
        return math.nan if "14" in example.reference else float(len(answer))


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"letters": Letters}
"""
    )
    [found] = evaluations(run(recipe(evaluate=[{"use": "letters"}]), tmp_path / "runs", "-p", plugin))
    [metric] = found["metrics"]
    assert metric["base_scores"][0] == "nan" and metric["difference"]["n"] == 3
    assert found["notes"] == ["score: 1 of 4 examples have no score and are left out"]


def test_rows_of_a_group_are_one_cluster(recipe, tmp_path):
    rows = [{"instruction": f"Double {n}.", "response": f"{2 * n}", "doc": "ab"[n % 2]} for n in range(40, 48)]
    file = recipe(data={"evals": {"heldout": {**HELDOUT, "group": "doc"}}})
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluations(run(file, tmp_path / "runs"))
    assert found[0]["metrics"][0]["difference"]["method"] == "paired ratio, t, 2 clusters"
    assert found[1]["metrics"][0]["clusters"] == ["group a", "group b"] * 4


def test_an_evaluator_may_measure_the_model_itself(recipe, tmp_path):
    plugin = tmp_path / "norms.py"
    plugin.write_text(
        """from typing import ClassVar

import ftp


class Norms(ftp.Evaluator):
    'How large the weights are.'

    reads_answers: ClassVar[bool] = False

    def measure(self, model: ftp.LoadedModel) -> dict[str, list[float]]:
        assert not model.model.training
        return {"norms": [float(weight.detach().norm()) for weight in model.model.parameters()]}

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        base, tuned = (measured["norms"] for measured in (view.base_measured, view.tuned_measured))
        metric = ftp.paired_metric("norm", base, tuned[: len(base)])
        return ftp.Evaluation((metric,), n=len(base))


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"norms": Norms}
"""
    )
    file = recipe(adapter={"use": "full"}, data={"evals": None}, answers=None, evaluate=[{"use": "norms"}])
    place = run(file, tmp_path / "runs", "-p", plugin)
    [found] = evaluations(place)
    assert (found["evaluator"], found["evals"]) == ("norms", "norms")
    base = json.loads((place / "answers" / "base.0-norms.json").read_text())["norms"]
    assert found["metrics"][0]["base_scores"] == base and found["metrics"][0]["tuned_scores"] != base
    assert ftp("eval", place, "-p", plugin).exit_code == 0
    assert evaluations(only(place)) == [found]


# --- cached answers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_model_is_never_asked_twice(recipe, tmp_path, generated):
    first = run(recipe(), tmp_path / "runs")
    assert generated == [4, 4]
    again = run(recipe(), tmp_path / "runs", "--new")
    assert generated == [4, 4]  # the same seed makes the same weights
    other = run(recipe(seed=7), tmp_path / "runs")
    assert generated == [4, 4, 4]
    longer = run(recipe(answers={"max_new_tokens": 9}), tmp_path / "runs")
    assert generated == [4, 4, 4, 4, 4]
    for who in ("base", "tuned"):
        tables = [pq.read_table(place / "answers" / f"{who}-heldout.parquet") for place in (first, again)]
        assert tables[0] == tables[1]
    read = [pq.read_table(place / "answers" / "base-heldout.parquet") for place in (first, other)]
    assert read[0] == read[1]
    assert longer != other


def test_what_answers_follow_from_is_in_their_key(ftp_tiny_model, ftp_answers, tmp_path):
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu", dtype="float32")
    loaded, options = loader.load(loader.describe()), AnswerOptions()
    examples = ftp_answers([("What?", "This.", "", "")]).examples
    known = answer_cache.key(loaded, None, examples, options)
    renamed = [dataclasses.replace(example, id="other:9", source="other") for example in examples]
    assert answer_cache.key(loaded, None, renamed, options) == known
    half = HuggingFace(id=str(ftp_tiny_model), device="cpu", dtype="bfloat16")
    others = {
        answer_cache.key(half.load(half.describe()), None, examples, options),
        answer_cache.key(dataclasses.replace(loaded, fingerprint="0" * 64), None, examples, options),
        answer_cache.key(loaded, ftp_tiny_model, examples, options),
        answer_cache.key(loaded, None, ftp_answers([("What?", "That.", "", "")]).examples, options),
        answer_cache.key(loaded, None, examples, AnswerOptions(max_new_tokens=9)),
        answer_cache.key(loaded, None, examples, None),
        answer_cache.key(loaded, None, examples, None, open_end=True),
    }
    loaded.tokenizer.chat_template += " "
    others.add(answer_cache.key(loaded, None, examples, options))
    assert len(others | {known}) == 9 and None not in others
    for nothing in ("", "commit None"):
        assert answer_cache.key(dataclasses.replace(loaded, fingerprint=nothing), None, examples, options) is None


def test_answers_that_nobody_asks_for_are_forgotten(tmp_path, ftp_answers, cache):
    view = ftp_answers([("What?", "This.", "That.", "")])
    write_answers(tmp_path / "a.parquet", view.examples, view.base_answers, view.base_losses)
    for key in ("old", "new", None):
        answer_cache.keep(key, tmp_path / "a.parquet")
    assert answer_cache.recall("old") == (view.base_answers, view.base_losses)
    assert answer_cache.recall("other") is None and answer_cache.recall(None) is None
    long_ago = time.time() - 31 * 86400
    os.utime(cache / "old.parquet", (long_ago, long_ago))
    answer_cache.keep("new", tmp_path / "a.parquet")
    assert [file.name for file in cache.iterdir()] == ["new.parquet"]


# --- runs of other releases, and damaged ones ------------------------------------------------------------------------


def test_a_run_whose_rows_lack_what_came_later_is_read_with_defaults(recipe, tmp_path):
    import pyarrow as pa

    place = run(recipe(), tmp_path / "runs")
    whole = finished(RunDirectory(place))
    for file in (place / "data").glob("*.arrow"):
        with pa.memory_map(str(file)) as source:
            rows = pa.ipc.open_file(source).read_all().to_pylist()
        old = [
            {
                **{name: row[name] for name in ("id", "source", "role", "text")},
                "messages": [{name: turn[name] for name in ("role", "content")} for turn in row["messages"]],
            }
            for row in rows
        ]
        turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        names = [(name, pa.string()) for name in ("id", "source", "role", "text")]
        table = pa.Table.from_pylist(old, pa.schema([*names, ("messages", turns)]))
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    [view] = finished(RunDirectory(place)).views
    assert [example.messages for example in view.examples] == [e.messages for e in whole.views[0].examples]
    result = ftp("eval", place)
    assert result.exit_code == 0, result.output
    assert evaluations(only(place)) == evaluations(place)


def test_a_run_with_a_damaged_file_is_told_in_one_line(recipe, tmp_path):
    place = run(recipe(), tmp_path / "runs")
    for name, content in (
        ("data/eval-heldout.arrow", b"no table"),
        ("data/eval-heldout.arrow", None),
        ("answers/base-heldout.parquet", b"no table"),
        ("resolved.yaml", b"a: [\n"),
        ("resolved.yaml", b"name: small\n"),
        ("ledger.parquet", None),
    ):
        before = (place / name).read_bytes()
        (place / name).unlink() if content is None else (place / name).write_bytes(content)
        with pytest.raises(RunError) as raised:
            finished(RunDirectory(place))
        (place / name).write_bytes(before)
        assert str(raised.value).startswith(str(place / name))
        assert "\n" not in str(raised.value)


def test_a_damaged_old_run_does_not_stop_a_new_one(recipe, tmp_path):
    old = tmp_path / "runs" / "small" / "20200101-000000-aaaa"
    old.mkdir(parents=True)
    (old / "run.lock.json").write_text('{"recipe":\n')
    result = ftp("run", recipe(), "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert f"An old run is skipped: {old / 'run.lock.json'}:2: damaged" in result.stderr


# --- ftp eval --------------------------------------------------------------------------------------------------------


@pytest.mark.thin(2)
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_an_old_run_evaluated_again_finds_the_same(recipe, tmp_path, generated, cache, adapter):
    place = run(recipe(adapter={"use": adapter} if adapter == "full" else {"r": 4}), tmp_path / "runs")
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "heldout.jsonl").unlink()
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    result = ftp("eval", place)
    assert result.exit_code == 0, result.output
    assert generated == [4, 4]
    for file in cache.iterdir():
        file.unlink()
    ftp("eval", place)
    assert generated == [4, 4, 4, 4]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = sorted(place.glob("evals/2*"))
    assert len(found) == 2
    for again in found:
        assert evaluations(again) == evaluations(place)
    assert "report.html" in result.stdout.splitlines()[-1]
    assert [r["name"] for r in json.loads(ftp("runs", "--runs", tmp_path / "runs", "--json").stdout)] == ["small"]


def test_an_old_run_is_evaluated_with_another_recipe(recipe, tmp_path):
    place = run(recipe(), tmp_path / "runs")
    seen = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    kept = pq.read_table(place / "ledger.parquet").to_pylist()
    assert kept[0]["fate"] != "dropped"
    rows = [{"instruction": f"Say {n} in words.", "response": "No."} for n in range(3)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, seen]))
    file = recipe(
        data={"evals": {"heldout": None, "new": {"path": "new.jsonl", "format": {"use": "instruct"}}}},
        evaluate=[{"use": "rouge"}],
        seed=99,
    )
    result = ftp("eval", place, "-e", file)
    assert result.exit_code == 0, result.output
    [found] = evaluations(only(place))
    assert (found["evaluator"], found["evals"], found["n"]) == ("rouge", "new", 4)
    # The row that the model was trained on is found, though decontaminate would have dropped it from a training.
    assert "leaks: 1 of 4 row is similar to a training row" in found["notes"][-1]
    assert found["subsets"]["leaked"][0]["tuned_scores"] == found["metrics"][0]["tuned_scores"][3:]
    lock = json.loads((only(place) / "run.lock.json").read_text())
    assert [name.rpartition("/")[2] for name in lock["data"]] == ["new.jsonl"]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_model_directory_is_compared_with_the_recipes_model(recipe, tmp_path, generated, adapter):
    file, same = recipe(adapter={"use": adapter} if adapter == "full" else {"r": 4}), ("--set", "model.dtype=float32")
    place = run(file, tmp_path / "runs", *same)
    result = ftp("eval", place / "model", "-e", file, *same, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "isn't known" in result.stderr
    again = evaluations(only(tmp_path / "runs"))
    for found, known in zip(again, evaluations(place), strict=True):
        for one, other in zip(found["metrics"], known["metrics"], strict=True):
            assert one["tuned_scores"] == pytest.approx(other["tuned_scores"], abs=1e-5)


def test_a_rehearsed_target_says_what_it_needs(recipe, tmp_path):
    with pytest.raises(RunError, match="neither a run nor a model directory"):
        raise ftp("eval", tmp_path).exception
    place = run(recipe(), tmp_path / "runs")
    with pytest.raises(RunError, match="name a recipe with -e"):
        raise ftp("eval", place / "model").exception
    assert "--set changes the recipe that -e names" in str(ftp("eval", place, "--set", "seed=1").exception)
    stages = json.loads((place / "stages.json").read_text())
    (place / "stages.json").write_text(json.dumps({"data": stages["data"]}))
    with pytest.raises(RunError, match="no trained model in it"):
        raise ftp("eval", place).exception


def test_another_base_model_is_refused(recipe, tmp_path):
    place = run(recipe(), tmp_path / "runs")
    lock = json.loads((place / "run.lock.json").read_text())
    lock["model"]["fingerprint"] = "0" * 64
    (place / "run.lock.json").write_text(json.dumps(lock))
    with pytest.raises(RunError, match="is not the one that it was trained on"):
        raise ftp("eval", place).exception


@pytest.mark.parametrize("command", ["run", "eval"])
def test_replay_is_told_to_the_judge(monkeypatch, command, tmp_path):
    monkeypatch.setenv("FTP_REPLAY", "")
    ftp(command, tmp_path / "nothing.yaml")
    assert os.environ["FTP_REPLAY"] == ""
    ftp(command, tmp_path / "nothing.yaml", "--replay")
    assert os.environ["FTP_REPLAY"] == "1"


# --- ftp compare -----------------------------------------------------------------------------------------------------


def test_runs_are_paired_on_the_same_examples(recipe, tmp_path):
    first = run(recipe(), tmp_path / "runs")
    rows = (tmp_path / "heldout.jsonl").read_text().splitlines(keepends=True)
    file = recipe(name="longer", train={"learning_rate": 1e-2, "epochs": 3})
    (tmp_path / "heldout.jsonl").write_text("".join(reversed(rows)))  # the same examples elsewhere
    second = run(file, tmp_path / "runs")
    result = ftp("compare", first, second, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    found = {(r["evaluator"], r["metric"]): r for r in told["comparisons"]}
    assert found.keys() == {(e["evaluator"], m["name"]) for e in evaluations(first) for m in e["metrics"]} - {
        ("loss", "perplexity")
    }
    assert any("perplexity: has no score for each example" in note for note in told["notes"])
    nll = found["loss", "nll"]
    mine, theirs = (evaluations(place)[0]["metrics"][0] for place in (first, second))
    assert (nll["first_score"], nll["other_score"]) == pytest.approx((mine["tuned"], theirs["tuned"]))
    assert nll["difference"]["n"] == 4 and nll["difference"]["mean"] == pytest.approx(theirs["tuned"] - mine["tuned"])
    assert [r["p_adjusted"] for r in told["comparisons"]] == holm([r["p_value"] for r in told["comparisons"]])
    shown = ftp("compare", first, second)
    assert shown.exit_code == 0 and "heldout, loss nll" in shown.stdout and nll["verdict"] in shown.stdout
    three = ftp("compare", first, second, first, "--json")
    assert {r["other"] for r in json.loads(three.stdout)["comparisons"]} == {str(second), str(first)}


def test_runs_on_other_examples_are_refused(recipe, tmp_path):
    first = run(recipe(), tmp_path / "runs")
    file = recipe(name="other")
    rows = (tmp_path / "heldout.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "heldout.jsonl").write_text("".join([*rows[:2], rows[2].replace("Double", "Triple")]))
    second = run(file, tmp_path / "runs")
    with pytest.raises(RunError) as raised:
        raise ftp("compare", first, second).exception
    said = str(raised.value)
    assert f"eval set 'heldout' differs: 4 examples in {first}, 3 in {second}" in said
    assert f"only in {first}: 2, heldout.jsonl:3, heldout.jsonl:4" in said
    assert "1 have the same id and another text, heldout.jsonl:3 among them" in said
    assert "two or more runs" in str(ftp("compare", first).exception)
    assert "not a run directory" in str(ftp("compare", first, tmp_path).exception)


def test_what_cant_be_compared_is_told(recipe, tmp_path):
    first = run(recipe(), tmp_path / "runs")
    second = run(recipe(evaluate=[{"use": "exact_match", "ignore_case": False}, {"use": "loss"}]), tmp_path / "runs")
    notes = json.loads(ftp("compare", first, second, "--json").stdout)["notes"]
    assert f"heldout, rouge rouge1: only in {first}" in notes
    assert f"exact_match: other options in {second}: ignore_case" in notes


def test_a_missing_eval_set_is_a_data_error(recipe, tmp_path):
    place = run(recipe(), tmp_path / "runs")
    file = recipe(data={"evals": {"heldout": {"path": "nothing.jsonl"}}})
    assert isinstance(ftp("eval", place, "-e", file).exception, DataError)
    assert math.isfinite(evaluations(place)[0]["metrics"][0]["base"])
