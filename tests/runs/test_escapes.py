"""Names of files and metrics, rows and replies with escape sequences, in the commands that show them."""

import json
import shutil

import pytest
import yaml
from mutator import outcome
from specimens import recipe_of, write_data

BAD = "\x1b]0;owned\x07\x1b[2J\u202e"
ACTING = {*"\x1b\x07\u202e\x9b"}
PLUGIN = f"""
import ftp
BAD = {BAD!r}
class Shouts(ftp.Evaluator):
    def evaluate(self, view):
        scores = [float(len(answer.text)) for answer in view.tuned_answers]
        metric = ftp.stats.paired_metric("metric " + BAD, scores, scores, base_reasons=[BAD] * len(scores))
        return ftp.Evaluation(metrics=(metric,), n=len(scores), notes=("note " + BAD,), panel={{"panel": BAD}})
class Warns(ftp.Watcher):
    def see(self, event):
        if event["event"] == "metric" and event["step"] == 1:
            return ftp.Warn("reason " + BAD)
class Breaks(ftp.Evaluator):
    def score(self, example, answer):
        raise ValueError("reply " + BAD)
@ftp.hookimpl
def ftp_evaluators():
    return {{"shouts": Shouts, "breaks": Breaks}}
@ftp.hookimpl
def ftp_watchers():
    return {{"warns": Warns}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, ftp_tiny_model):
    """A recipe whose files, rows, metrics and notes have escape sequences."""
    place = tmp_path_factory.mktemp("escapes")
    write_data(place)
    (place / "plugin.py").write_text(PLUGIN)
    (place / "rows").mkdir()
    shutil.move(place / "train.jsonl", place / "rows" / f"train{BAD}.jsonl")
    with (place / "heldout.jsonl").open("a") as stream:
        stream.write(json.dumps({"instruction": f"Say {BAD}.", "context": BAD, "response": BAD}) + "\n")
    recipe = recipe_of({"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"})
    recipe["data"]["train"][0]["path"] = "rows"
    recipe |= {"evaluate": [{"use": "exact_match"}, {"use": "shouts"}], "watch": [{"use": "warns"}]}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place


def said(place, *arguments, code=0):
    """What a command says, which has to be nothing that a terminal acts on."""
    how, text = outcome([*map(str, arguments)], place, seconds=250)
    assert how == f"code {code}", text
    assert not ACTING & {*text}, ascii(text)
    return text


def test_no_command_passes_an_escape_sequence_on(place, monkeypatch, tmp_path):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    plugin = ("-p", "plugin.py")
    said(place, "data", "check", "recipe.yaml", *plugin)
    assert r"S|ay| |\u001b|]|0|;|o|w|n" in said(place, "data", "show", "recipe.yaml", "heldout.jsonl:5", *plugin)
    assert "reason \\u001b]0;owned" in said(place, "run", "recipe.yaml", *plugin)
    [run] = (place / "runs" / "finished").iterdir()
    said(place, "report", run, *plugin)
    assert "\\u001b" in said(place, "runs", "--json")
    said(place, "runs")
    said(place, "compare", run, run)
    said(place, "eval", run, *plugin)
    broken = said(place, "run", "recipe.yaml", *plugin, "--set", "evaluate.0.use=breaks", code=2)
    assert "reply \\u001b]0;owned" in broken
    with (place / "rows" / f"train{BAD}.jsonl").open("a") as stream:
        stream.write(f'{{"instruction": "{BAD}')
    assert "train\\u001b]0;owned" in said(place, "data", "check", "recipe.yaml", *plugin, code=2)
    assert not ACTING & {*(run / "README.md").read_text()}
