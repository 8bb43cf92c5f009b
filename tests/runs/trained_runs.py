"""Training of tiny runs, for the tests of what is done with a run afterwards."""

import json

import yaml
from click.testing import CliRunner

from ftp.cli import cli


def train_run(place, model, name="one", adapter=None, rate=0.01, says="{n} doubled is {twice}.", plugins=(), **more):
    """Train a tiny run in a directory and return the directory of the run."""
    model = model if isinstance(model, dict) else {"use": "huggingface", "id": str(model)}
    place.mkdir(parents=True, exist_ok=True)
    answers = {n: says.format(n=n, twice=2 * n) for n in range(2, 18)}
    rows = [{"instruction": f"Double {n}.", "context": "", "response": answer} for n, answer in answers.items()]
    for part, some in (("train", rows[:12]), ("heldout", rows[12:])):
        (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    source = {"format": {"use": "instruct"}}
    recipe = {
        "name": name,
        "model": {**model, "device": "cpu", "dtype": "float32"},
        "adapter": adapter or {"use": "lora", "r": 4},
        "data": {
            "train": [{"path": "train.jsonl", **source}],
            "validation": "25%",
            "evals": {"heldout": {"path": "heldout.jsonl", **source}},
        },
        "train": {"use": "sft", "epochs": 4, "batch_size": 4, "learning_rate": rate},
        "evaluate": [{"use": "exact_match"}],
        "answers": {"max_new_tokens": 12},
    } | more
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    files = [argument for file in plugins for argument in ("-p", str(file))]
    command = ["run", str(file), "--runs", str(place / "runs"), *files]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return max((place / "runs" / name).iterdir())
