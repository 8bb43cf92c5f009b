"""`model: {use: run, path: …}`: a run that begins with the trained model of another one."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml
from trained_runs import train_run

from ftp_plugins.loaders.run import Run


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of merged models of its own."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FTP_CACHE", str(place))
    return place / "runs"


def child_of(parent, place, name="child", **more):
    return train_run(place, {"use": "run", "path": str(parent)}, name, **more)


def answers(run, who):
    rows = pq.read_table(run / "answers" / f"{who}-heldout.parquet").to_pylist()
    return [row["answer"] for row in rows], [row["nll"] for row in rows]


def lock_of(run):
    return json.loads((run / "run.lock.json").read_text())


def test_the_new_base_is_the_parents_tuned_model(lora_runs, tmp_path, cache):
    child = child_of(lora_runs.one, tmp_path)
    before, now = answers(lora_runs.one, "tuned"), answers(child, "base")
    assert now[0] == before[0]
    assert now[1] == pytest.approx(before[1], rel=1e-5)
    assert len([place for place in cache.iterdir() if place.is_dir()]) == 1
    lineage = lock_of(child)["lineage"]
    assert lineage["run"] == lora_runs.one.name and lineage["name"] == "one" and "parent" not in lineage
    assert lineage["base"] == lock_of(lora_runs.one)["model"]["name"]
    assert lineage["fingerprint"] == lock_of(child)["model"]["fingerprint"] == lock_of(child)["base_model"]
    for report in ("README.md", "report.html"):
        assert f"one/{lora_runs.one.name}" in (child / report).read_text().replace("\\_", "_")

    grandchild = child_of(child, tmp_path, "grandchild")
    assert lock_of(grandchild)["lineage"]["parent"] == lineage
    assert answers(grandchild, "base")[0] == answers(child, "tuned")[0]


def test_a_whole_model_is_read_where_it_is(ftp_tiny_model, tmp_path, cache):
    parent = train_run(tmp_path, ftp_tiny_model, "whole", {"use": "full"}, rate=0.002)
    child = child_of(parent, tmp_path, adapter={"use": "lora", "r": 2})
    assert answers(child, "base")[0] == answers(parent, "tuned")[0]
    assert not cache.exists()


def test_qlora_is_merged_into_the_dequantised_base(ftp_tiny_model, tmp_path):
    adapter = {"use": "qlora", "r": 4, "compute_dtype": "float32"}
    parent = train_run(tmp_path, ftp_tiny_model, "quantised", adapter)
    child = child_of(parent, tmp_path)
    assert answers(child, "base")[1] == pytest.approx(answers(parent, "tuned")[1], rel=1e-3)
    assert answers(child, "base")[1] != pytest.approx(answers(parent, "base")[1], rel=1e-2)


def test_a_parent_that_has_changed_is_another_input(ftp, lora_runs, tmp_path):
    parent = shutil.copytree(lora_runs.one, tmp_path / "parent" / "one" / "run")
    child = child_of(parent, tmp_path)
    stages = json.loads((child / "stages.json").read_text())
    (child / "stages.json").write_text(json.dumps({name: stages[name] for name in ("data", "base")}))
    shutil.copy(lora_runs.two / "model" / "adapter_model.safetensors", parent / "model")
    outcome = ftp("resume", str(child))
    assert outcome.code == 2 and "model: its files have changed" in outcome.err


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such directory"),
        (lambda run: (run / "run.lock.json").unlink(), "not a run directory"),
        (lambda run: (run / "stages.json").write_text("{}"), "no trained model in it; `ftp resume"),
    ],
)
def test_what_is_no_finished_run_is_named_with_its_place(ftp, lora_runs, tmp_path, ftp_recipe, spoil, says):
    parent = shutil.copytree(lora_runs.one, tmp_path / "parent" / "one")
    spoil(parent)
    recipe = ftp_recipe(model={"use": "run", "path": str(parent)})
    outcome = ftp("check", str(recipe))
    assert outcome.code == 2 and says in outcome.err
    assert "recipe.yaml:" in outcome.err and "model.path" in outcome.err


def test_a_run_of_somebody_else_asks_before_it_runs_code(ftp, lora_runs, tmp_path, ftp_recipe):
    parent = shutil.copytree(lora_runs.one, tmp_path / "parent" / "one")
    resolved = yaml.safe_load((parent / "resolved.yaml").read_text())
    resolved["model"]["trust_remote_code"] = True
    (parent / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    assert any("run the code" in what for what in Run(path=str(parent)).needs_consent_in_recipe())
    outcome = ftp("run", str(ftp_recipe(model={"use": "run", "path": str(parent)})))
    assert outcome.code == 2 and "run the code that comes with the model" in outcome.err


MINE = """
import ftp, os, pathlib
pathlib.Path(os.environ["SAW"]).touch()
class Mine(ftp.Evaluator):
    def score(self, example, answer):
        return 1.0
@ftp.hookimpl
def ftp_evaluators():
    return {"mine": Mine}
"""


@pytest.fixture
def parent_with_plugin(ftp_tiny_model, tmp_path, monkeypatch):
    """A run made with `-p mine.py`, and the file that shows an import of it."""
    saw = tmp_path / "saw"
    monkeypatch.setenv("SAW", str(saw))
    monkeypatch.setenv("FTP_USER_DATA", str(tmp_path / "user"))
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    parent = train_run(tmp_path / "made", ftp_tiny_model, "parent", plugins=[file], evaluate=[{"use": "mine"}])
    saw.unlink()
    return parent, file, saw


def test_the_plugins_of_the_parent_are_used_again(ftp, parent_with_plugin, tmp_path, ftp_recipe):
    parent, file, saw = parent_with_plugin
    child = child_of(parent, tmp_path / "child")
    assert saw.exists()
    assert lock_of(child)["lineage"]["run"] == parent.name
    assert any("mine.py" in what for what in json.loads((child / "consent.json").read_text())["may"])
    outcome = ftp("resume", str(child))
    assert outcome.code == 0, outcome.err
    file.unlink()
    outcome = ftp("check", str(ftp_recipe(model={"use": "run", "path": str(parent)})))
    assert outcome.code == 2 and f"used the plugin {file}" in outcome.err and "model.path" in outcome.err


@pytest.mark.parametrize("command", ["run", "plan", "lr-find"])
def test_the_plugins_of_somebody_elses_run_are_not_imported_unasked(
    ftp, parent_with_plugin, tmp_path, ftp_recipe, command
):
    parent, file, saw = parent_with_plugin
    file.write_text(MINE + "\n# other content\n")
    recipe = ftp_recipe(model={"use": "run", "path": str(parent)})
    assert ftp("check", str(recipe)).code == 0
    outcome = ftp(command, str(recipe))
    assert outcome.code == 2 and f"run the Python file {file}" in outcome.err and "--trust" in outcome.err
    assert not saw.exists()
    if command == "plan":
        assert ftp(command, str(recipe), "--trust").code == 0
        assert saw.exists()
