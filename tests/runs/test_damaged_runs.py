"""What the commands say of a run that is none, or of which a file is damaged."""

import json

import pytest


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
