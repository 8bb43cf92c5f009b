"""What the commands say of a run that is none, or of which a file is damaged."""

import json
import os
import shutil
import time

import pytest
import yaml
from mutator import KINDS, on_a_copy, outcome
from specimens import make

from ftp.errors import RunError
from ftp.files import without_controls
from ftp.runs.directory import RunDirectory
from ftp.runs.events import done_until

MUTANTS = int(os.environ.get("FTP_MUTANTS", "4"))
"""Damaged copies of each kind, two of them in the default run; `FTP_MUTANTS=100` tries more."""
SEEDS = [
    seed if seed < 2 or "FTP_MUTANTS" in os.environ else pytest.param(seed, marks=pytest.mark.slow)
    for seed in range(MUTANTS)
]


@pytest.mark.parametrize("command", ["resume", "report", "compare", "eval"])
def test_a_recipe_or_a_damaged_run_in_place_of_a_run(ftp, tmp_path, command):
    """A recipe where a run belongs, and a run with a file that was cut off: one line each, no traceback."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: small\n")
    damaged = tmp_path / "runs" / "small" / "1"
    damaged.mkdir(parents=True)
    for name in ("run.lock.json", "evaluation.json"):
        (damaged / name).write_text('{"recipe":\n')
    for path, what in ((recipe, "run"), (damaged, "damaged")):
        found = ftp(command, *[str(path)] * (2 if command == "compare" else 1))
        assert found.code == 2
        assert found.err.startswith(str(path)) and what in found.err and found.err.count("\n") == 1
    if command == "resume":
        assert f"`ftp run {recipe}` resumes its run" in ftp(command, str(recipe)).err


def test_the_list_of_runs_leaves_out_a_damaged_one_and_names_it(ftp, tmp_path):
    for name, content in (("a", None), ("b", "{"), ("c", '[{"metrics": 3}]'), ("d", '[{"evaluator": "loss"}]')):
        run = tmp_path / "runs" / name / "1"
        run.mkdir(parents=True)
        (run / "run.lock.json").write_text("{")
        if content:
            (run / "evaluation.json").write_text(content)
    found = ftp("runs", "--json")
    assert found.code == 0 and [run["name"] for run in json.loads(found.out)] == ["a"]
    lines = found.err.splitlines()
    assert [line.split(" is left out: ")[0] for line in lines] == [f"runs/{name}/1" for name in "dcb"]
    assert all("evaluation.json" in line and "damaged" in line for line in lines)


# --- a real run, damaged ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def specimens(tmp_path_factory):
    """Make a finished run, one that a signal has interrupted in its training, a model and a GGUF file."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTP_CACHE", str(place / "cache"))
        yield make(place, outcome)


@pytest.fixture
def runs(specimens):
    return specimens[:2]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_ends_in_a_message_and_nothing_is_written_outside(specimens, tmp_path, kind, seed):
    bad = [ending for ending in on_a_copy(specimens, tmp_path, seed, kind) if ending.is_bad]
    assert not bad, "\n".join(f"{e.damage}: {e.command}: {e.how}\n{e.said}" for e in bad)


def test_what_is_not_damaged_works(specimens, tmp_path, monkeypatch):
    monkeypatch.setattr("mutator.damage_gguf", lambda file, chance: "nothing")
    assert [ending.outcome for ending in on_a_copy(specimens, tmp_path, 0, "gguf")] == ["fine", "fine"]


def test_fields_of_a_later_release_are_left_out(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "runs" / "r" / "1")
    found = json.loads((run / "evaluation.json").read_text())
    metric = found[0]["metrics"][0]
    for place in (found[0], metric, metric["difference"]):
        place["a later field"] = 1
    (run / "evaluation.json").write_text(json.dumps(found))
    for command in (["runs"], ["report", str(run)], ["compare", str(run), str(run)]):
        how, output = outcome(command, tmp_path)
        assert how == "code 0", output


@pytest.mark.parametrize("name", ["report.html.part", "README.md.part", ".writer.json", ".lock", "model/README.md"])
@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_report_is_not_written_through_a_link(runs, tmp_path, name, is_dangling):
    run = shutil.copytree(runs[0], tmp_path / "runs" / "r" / "1")
    victim = tmp_path / "victim"
    if not is_dangling:
        victim.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    how, said = outcome(["report", str(run)], tmp_path)
    assert how == "code 2" and f"{run / name}: a link" in said
    assert victim.exists() != is_dangling and (is_dangling or victim.read_text() == "precious")


def test_a_directory_of_a_run_that_is_a_link_is_not_written_into(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "runs" / "r" / "1")
    outside = shutil.move(run / "model", tmp_path / "outside")
    (run / "model").symlink_to(outside)
    (tmp_path / "outside" / "README.md").unlink()
    how, said = outcome(["report", str(run)], tmp_path)
    assert how == "code 2" and f"{run / 'model'}: a link" in said
    assert not (tmp_path / "outside" / "README.md").exists()


def test_a_metrics_name_is_no_path(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "runs" / "r" / "1")
    resolved = yaml.safe_load((run / "resolved.yaml").read_text())
    resolved["data"]["evals"]["heldout"] |= {"path": None, "hub": "acme/rows"}
    (run / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    found = json.loads((run / "evaluation.json").read_text())
    found[0]["metrics"][0]["name"] = "x/../../../../escaped"
    (run / "evaluation.json").write_text(json.dumps(found))
    how, said = outcome(["report", str(run)], tmp_path)
    assert how == "code 0", said
    assert not list(tmp_path.rglob("escaped*"))
    assert any("escaped" in file.name for file in (run / "model" / ".eval_results").iterdir())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/../../x", ".", "a\\b", "a\0b", ""])
def test_no_name_leads_out_of_a_run(tmp_path, name):
    with pytest.raises(RunError, match="can't be the name of a file of a run"):
        RunDirectory(tmp_path).write_text(name, "x")


def test_names_and_notes_do_not_act_on_the_terminal(runs, tmp_path):
    bad = "\x1b]0;owned\x07\x1b[2Jname\u202e"
    run = shutil.copytree(runs[0], tmp_path / "runs" / "r\x1b[31mred" / "1")
    found = json.loads((run / "evaluation.json").read_text())
    found[0]["metrics"][0]["name"] = bad
    found[0]["evaluator"] = bad
    (run / "evaluation.json").write_text(json.dumps(found))
    said = ""
    for command in (["runs"], ["runs", "--json"], ["report", str(run)], ["compare", str(run), str(run)]):
        how, output = outcome(command, tmp_path)
        assert how == "code 0", output
        said += output
    for text in (said, (run / "README.md").read_text()):
        assert not {*"\x1b\x07\u202e"} & {*text}, ascii(text)
    assert "\\u001b[2Jname" in said
    assert json.loads(outcome(["runs", "--json"], tmp_path)[1])[0]["name"] == "r\x1b[31mred"
    assert without_controls("é \u4e2d\n\t") == "é \u4e2d\n\t"


@pytest.mark.parametrize("command", ["report", "resume", "compare", "eval", "export", "chat", "serve"])
def test_a_directory_that_is_no_run_is_called_that(tmp_path, command):
    (tmp_path / "empty").mkdir()
    arguments = {"compare": ["empty", "empty"], "export": ["empty", "merged"]}.get(command, ["empty"])
    how, said = outcome([command, *arguments], tmp_path)
    assert how == "code 2" and "empty: " in said and "from a copy" not in said, said
    assert "not a run directory" in said or "neither a run" in said or "no run, no model" in said, said


def test_a_run_without_its_lock_wants_it_back(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "r" / "1")
    (run / "run.lock.json").unlink()
    how, said = outcome(["serve", str(run)], tmp_path)
    assert how == "code 2" and "run.lock.json: missing; put it back from a copy" in said, said


def test_paths_that_can_not_be_written_are_named(runs, tmp_path):
    (tmp_path / "file").write_text("")
    long = "n" * 300
    recipe = str(runs[0].parents[2] / "recipe.yaml")
    for arguments, what in (
        (["run", recipe, "--runs", "file"], "file is not a directory"),
        (["runs", "--runs", "file"], "file is not a directory"),
        (["runs", "--html", "file/page.html"], "file"),
        (["runs", "--html", "."], "'.' is a directory"),
        (["runs", "--runs", long], "File name too long"),
        (["run", recipe, "--set", f"name={long}"], "at most 100 characters"),
        (["report", long], "ile name too long"),
        (["resume", "\udcff\udcfe"], "not a run directory"),
    ):
        how, said = outcome(arguments, tmp_path)
        assert how == "code 2" and what in said and "Traceback" not in said, (arguments, how, said)


def test_many_events_are_read_in_time_that_grows_with_them():
    def seconds(count):
        events = [{"event": "resume" if n % 3 == 0 else "metric", "step": n // 2} for n in range(count)]
        began = time.process_time()
        kept = done_until(events)
        assert len(kept) > count / 3
        return time.process_time() - began

    seconds(1000)
    assert seconds(300_000) < 3


def report_on_events(run, place, count):
    """Report a copy of a run with so many events, some of them repeated after a resume, and return the CPU seconds."""
    copy = shutil.copytree(run, place / f"{count}" / "r" / "1")
    first, *events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    metric, validation = (
        next(event for event in events if event["event"] == kind) for kind in ("metric", "validation")
    )
    with (copy / "events.jsonl").open("w") as stream:
        stream.write(json.dumps(first) + "\n")
        for number in range(1, count):
            event = {**(metric if number % 10 else validation), "step": number}
            again = {"time": first["time"], "event": "resume", "step": number - 5}
            stream.write(json.dumps(event if number % 1000 else again) + "\n")
    began = time.process_time()
    how, said = outcome(["report", str(copy)], place, seconds=1000)
    assert how == "code 0", said
    return time.process_time() - began


def test_a_report_takes_time_that_grows_with_the_events(runs, tmp_path):
    none, some, more = (report_on_events(runs[0], tmp_path, count) for count in (100, 10_000, 50_000))
    assert more - none < 10 * max(some - none, 0.2)  # 25 times as long where it grows with the square


@pytest.mark.slow
def test_a_report_on_a_million_events(runs, tmp_path):
    assert report_on_events(runs[0], tmp_path, 1_000_000) < 300


def test_events_that_were_done_again_do_not_hold():
    steps = [("metric", 1), ("metric", 2), ("metric", 3), ("resume", 1), ("metric", 2), ("note", None)]
    events = [{"event": event, "step": step} for event, step in steps]
    assert [(e["event"], e["step"]) for e in done_until(events)] == [steps[0], *steps[3:]]
    assert [(e["event"], e["step"]) for e in done_until(events, 1)] == [steps[0], steps[3], steps[5]]
