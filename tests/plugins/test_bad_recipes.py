"""Recipes in which the options of built-in components are wrong, and what `ftp check` says of each."""

import pytest

GOOD = """\
name: bad
model: {use: huggingface, id: some/model}
adapter: {use: lora, r: 16}
data:
  train:
    - {path: train.jsonl, format: {use: instruct}}
  validation: 10%
  evals:
    held: {path: held.jsonl, format: {use: instruct}}
train: {use: sft, epochs: 1, learning_rate: 1e-4}
evaluate:
  - {use: loss}
  - {use: exact_match}
"""

# What is replaced in the good recipe ("" stands for all of it), by what, and the lines that `ftp check` answers with.
BAD = {
    "replay without mix": (
        "  validation:",
        "    - {path: general.jsonl, format: {use: alpaca}, role: replay}\n  validation:",
        ["r.yaml:7:52: data.train.1.role: no curator decides how many replay rows are trained on; "
         "add `- {use: mix, …}` to data.curate"],
    ),
    "mix without replay": (
        "  validation:",
        "  curate: [{use: mix, replay: 5%}]\n  validation:",
        ["r.yaml:7:12: data.curate.0: mixes replay rows and no source has `role: replay`"],
    ),
    "mix that says nothing": (
        "  validation:",
        "  curate: [{use: mix, cap: 5}, {use: mix}]\n  validation:",
        ["r.yaml:7:32: data.curate.1: has nothing to do; set replay, shares, weights, temperature or cap; "
         'got {"use": "mix"}'],
    ),
    "replay alone": (
        "{path: train.jsonl, format: {use: instruct}}\n",
        "{path: train.jsonl, format: {use: instruct}, role: replay}\n  curate: [{use: mix, replay: 5%}]\n",
        ["r.yaml:5:3: data.train: has replay rows only; a run needs domain rows"],
    ),
    "bad pattern": (
        "{use: exact_match}",
        "{use: exact_match, pattern: '*'}",
        ["r.yaml:13:24: evaluate.1.pattern: not a regular expression: nothing to repeat at position 0"],
    ),
    "many at once": (
        "",
        "nmae: x\nmodel: {use: gguf, fiel: x}\ndata: {train: {}}\nevaluate: [loss, {use: rouge, stem: 1}]\n",
        ["r.yaml:1:1: name: is missing",
         "r.yaml:2:1: model.file: is missing",
         "r.yaml:2:20: model.fiel: unknown key; did you mean 'file'?",
         "r.yaml:1:1: adapter: is missing",
         "r.yaml:3:8: data.train: must be a list (lines that begin with `- `), not {}",
         "r.yaml:1:1: train: is missing",
         "r.yaml:4:12: evaluate.0: must be a block of keys, not \"loss\"",
         "r.yaml:4:31: evaluate.1.stem: must be true or false, not 1",
         "r.yaml:1:1: nmae: unknown key; did you mean 'name'?"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "lines"), BAD.values(), ids=list(BAD))
def test_bad_recipe(check_recipe, old, new, lines):
    assert old in GOOD
    outcome = check_recipe(GOOD.replace(old, new, 1) if old else new)
    assert outcome.err.splitlines() == lines
    assert outcome.out == ""
    assert outcome.code == 2


@pytest.mark.parametrize("options", ["cap: 5", "temperature: 2", "weights: {train.jsonl: 1}", "shares: {a: 5%}"])
def test_a_mix_without_replay_needs_no_replay_rows(check_recipe, options):
    curate = f"  curate: [{{use: mix, {options}}}]\n  validation:"
    assert check_recipe(GOOD.replace("  validation:", curate, 1)).code == 0
