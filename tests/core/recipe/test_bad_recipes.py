"""Recipes that are wrong, and what `ftp check` says of each: exit code 2, the place, what is wrong, what to do."""

import subprocess
import sys

import pytest

GOOD = """\
name: bad
model: {use: store, id: some/model}
adapter: {use: part, rank: 16}
data:
  train:
    - {path: train.jsonl, format: {use: pairs}}
  validation: 10%
  evals:
    held: {path: held.jsonl, format: {use: pairs}}
train: {use: steps, epochs: 1, learning_rate: 1e-4}
evaluate:
  - {use: loss}
  - {use: same}
"""
TOP = "adapter, against, answers, data, evaluate, export, model, name, report, seed, train, watch"

# What is replaced in the good recipe ("" stands for all of it), by what, and the lines that `ftp check` answers with.
BAD = {
    # --- YAML
    "empty": ("", "", ["r.yaml:1:1: the recipe is empty; `ftp init` writes one to start from"]),
    "only a comment": ("", "# later\n", ["r.yaml:1:1: the recipe is empty; `ftp init` writes one to start from"]),
    "a list": ("", "- name: x\n", ["r.yaml:1:1: a recipe is a block of keys such as `name:` and `model:`"]),
    "a word": ("", "hello\n", ["r.yaml:1:1: a recipe is a block of keys such as `name:` and `model:`"]),
    "tab": (
        "  train:\n",
        "\ttrain:\n",
        ["r.yaml:5:1: not valid YAML: found character '\\t' that cannot start any token"],
    ),
    "open bracket": (
        "rank: 16}",
        "rank: 16",
        ["r.yaml:4:5: not valid YAML: expected ',' or '}', but got ':'"],
    ),
    "control character": ("name: bad", "name: b\x07d", ["r.yaml:1:8: the character U+0007 is not allowed"]),
    "two documents": ("name: bad", "name: bad\n---", ["r.yaml:2:1: not valid YAML: but found another document"]),
    "unknown alias": ("rank: 16", "rank: *rank", ["r.yaml:3:28: not valid YAML: found undefined alias 'rank'"]),
    "alias to itself": (
        "rank: 16", "targets: &a [*a]",
        ["r.yaml:3:31: adapter.targets.0: an alias that refers to itself"],
    ),
    "aliases of aliases": (
        "name: bad",
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 10)}]\n" for b, c in zip("abcdef", "bcdefg", strict=True)),
        ["r.yaml:1:26: e.7.8.8.8.9: more than 100000 values; aliases expand too far"],
    ),
    "nested deeply": ("name: bad", "name: " + "[" * 5000, ["r.yaml: nested too deeply"]),
    "python object": (
        "name: bad",
        "name: !!python/object/apply:os.getcwd []",
        ["r.yaml:1:7: not valid YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/object/apply:os.getcwd'"],
    ),
    "binary": (
        "name: bad",
        "name: !!binary aGk=",
        ["r.yaml:1:7: not valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:binary'"],
    ),
    "tag that lies": ("name: bad", "name: bad\nseed: !!int x", ['r.yaml:2:7: not valid YAML: "x" is not a valid int']),
    "huge number": (
        "name: bad",
        f"name: bad\nseed: {'9' * 5000}",
        [f'r.yaml:2:7: not valid YAML: "{"9" * 56}… is not a valid int'],
    ),
    "half a character": (
        "id: some/model",
        'id: "\\ud83d\\ude00 \\ud800"',
        ["r.yaml:2:25: model.id: \\ud800 alone is half a character"],
    ),
    "list as a key": ("rank: 16", "[rank]: 16", ["r.yaml:3:22: adapter: a key must be a word"]),
    "key given twice": (
        "name: bad",
        "name: bad\nname: worse",
        ["r.yaml:2:1: name: given twice; keep one"],
    ),
    # --- keys
    "unknown key": (
        "rank: 16", "size: 16",
        [
            "r.yaml:3:22: adapter.size: unknown key; known: bias, rank, targets, use"
        ],
    ),
    "misspelt key": ("epochs: 1", "epoch: 1", ["r.yaml:10:21: train.epoch: unknown key; did you mean 'epochs'?"]),
    "unknown key at the top": ("name: bad", "name: bad\nzzz: 1", [f"r.yaml:2:1: zzz: unknown key; known: {TOP}"]),
    "missing key": ("name: bad\n", "", ["r.yaml:1:1: name: is missing"]),
    "missing key in a block": ("id: some/model", "device: cpu", ["r.yaml:2:1: model.id: is missing"]),
    "missing format": (
        ", format: {use: pairs}}\n  val", "}\n  val",
        ["r.yaml:6:7: data.train.0.format: is missing"],
    ),
    # --- use
    "misspelt name": (
        "use: part",
        "use: prat",
        ["r.yaml:3:11: adapter.use: nothing called \"prat\" is installed; did you mean 'part'?"],
    ),
    "unknown name": (
        "use: pairs}}\n  val",
        "use: zzz}}\n  val",
        ['r.yaml:6:36: data.train.0.format.use: nothing called "zzz" is installed; '
         "known: lines, pairs"],
    ),
    "misspelt name of the only one": (
        "use: steps",
        "use: setps",
        ["r.yaml:10:9: train.use: nothing called \"setps\" is installed; did you mean 'steps'?"],
    ),
    "no use": ("use: part, ", "", ["r.yaml:3:1: adapter.use: is missing; one of part, whole"]),
    "no use where there is one": ("use: steps, ", "", ["r.yaml:10:1: train.use: is missing; one of steps"]),
    "use is null": (
        "use: part",
        "use: ~",
        ["r.yaml:3:11: adapter.use: nothing called null is installed; known: part, whole"],
    ),
    "a word for a block": (
        "{use: part, rank: 16}",
        "part",
        ['r.yaml:3:1: adapter: must be a block of keys, not "part"'],
    ),
    "a word for a block in a list": (
        "- {use: loss}",
        "- loss",
        ['r.yaml:12:5: evaluate.0: must be a block of keys, not "loss"'],
    ),
    # --- types and limits
    "text for a number": ("rank: 16", "rank: '16'", ['r.yaml:3:22: adapter.rank: must be a whole number, not "16"']),
    "true for a number": ("rank: 16", "rank: true", ["r.yaml:3:22: adapter.rank: must be a whole number, not true"]),
    "true for a float": ("epochs: 1", "epochs: true", ["r.yaml:10:21: train.epochs: must be a number, not true"]),
    "fraction for a whole": ("rank: 16", "rank: 16.5", ["r.yaml:3:22: adapter.rank: must be a whole number, not 16.5"]),
    "number for text": ("name: bad", "name: 7", ["r.yaml:1:1: name: must be text, not 7"]),
    "yes is text": ("rank: 16", "bias: yes", ['r.yaml:3:22: adapter.bias: must be true or false, not "yes"']),
    "null": ("rank: 16", "rank:", ["r.yaml:3:22: adapter.rank: must be a whole number, not null"]),
    "not a number": (
        "learning_rate: 1e-4",
        "learning_rate: .nan",
        ["r.yaml:10:32: train.learning_rate: must be a finite number, not NaN"],
    ),
    "infinite": (
        "learning_rate: 1e-4",
        "learning_rate: -.inf",
        ["r.yaml:10:32: train.learning_rate: must be a finite number, not -Infinity"],
    ),
    "too small": ("rank: 16", "rank: 0", ["r.yaml:3:22: adapter.rank: must be greater than or equal to 1, not 0"]),
    "too large": (
        "name: bad",
        f"name: bad\nseed: {2**40}",
        [f"r.yaml:2:1: seed: must be less than 4294967296, not {2**40}"],
    ),
    "not one of": (
        "epochs: 1",
        "schedule: cosin",
        ["r.yaml:10:21: train.schedule: must be 'linear', 'cosine' or 'constant', not \"cosin\"; "
         "did you mean 'cosine'?"],
    ),
    "of no type allowed": (
        "rank: 16",
        "targets: q_proj",
        ["r.yaml:3:22: adapter.targets: must be 'all' or a list (lines that begin with `- `), not \"q_proj\""],
    ),
    "one of a list": ("rank: 16", "targets: [q, 1]", ["r.yaml:3:35: adapter.targets.1: must be text, not 1"]),
    "block for a list": (
        "    - {path: train.jsonl, format: {use: pairs}}",
        "    {path: train.jsonl}",
        ['r.yaml:5:3: data.train: must be a list (lines that begin with `- `), not {"path": "train.jsonl"}'],
    ),
    "empty list": (
        "    - {path: train.jsonl, format: {use: pairs}}",
        "    []",
        ["r.yaml:5:3: data.train: must be a list with at least one entry, not []"],
    ),
    "bad name": (
        "name: bad",
        "name: a/b",
        ['r.yaml:1:1: name: must be letters, digits and . _ - with a letter or digit first, not "a/b"'],
    ),
    "bad name of an eval set": (
        "held:",
        "../held:",
        ["r.yaml:9:5: data.evals.../held: must be letters, digits and . _ - with a letter or digit first, "
         'not "../held"'],
    ),
    "share without %": ("10%", "10", ["r.yaml:7:3: data.validation: must be less than 1, not 10"]),
    "share of nothing": ("10%", "'%'", ['r.yaml:7:3: data.validation: must be a number, not "%"']),
    "share as a list": ("10%", "[10%]", ['r.yaml:7:3: data.validation: must be a number, not ["10%"]']),
    "misspelt key of a validation source": (
        "10%",
        "{path: v.jsonl, fromat: {use: pairs}}",
        ["r.yaml:7:3: data.validation.format: is missing",
         "r.yaml:7:31: data.validation.fromat: unknown key; did you mean 'format'?"],
    ),
    # --- what doesn't fit together
    "path and hub": (
        "{path: train.jsonl,",
        "{path: train.jsonl, hub: a/b,",
        ["r.yaml:6:7: data.train.0: needs either `path:` or `hub:`"],
    ),
    "neither path nor hub": (
        "{path: train.jsonl, ", "{",
        ["r.yaml:6:7: data.train.0: needs either `path:` or `hub:`"],
    ),
    "split without hub": (
        "{path: train.jsonl,",
        "{path: train.jsonl, split: train,",
        ["r.yaml:6:27: data.train.0.split: applies only to a `hub:` source; remove it"],
    ),
    "role of an eval set": (
        "{path: held.jsonl,",
        "{path: held.jsonl, role: replay,",
        ["r.yaml:9:30: data.evals.held.role: an eval set has no role; remove it"],
    ),
    "trained and evaluated on": (
        "path: held.jsonl",
        "path: ./train.jsonl",
        ["r.yaml:9:12: data.evals.held.path: data.train.0 reads train.jsonl too; "
         "a leak: these rows would be trained on"],
    ),
    "a glob that takes in the eval set": (
        "path: train.jsonl",
        "path: '*.jsonl'",
        ["r.yaml:9:12: data.evals.held.path: data.train.0 reads held.jsonl too; "
         "a leak: these rows would be trained on"],
    ),
    "trained on and watched": (
        "10%",
        "{path: train.jsonl, format: {use: pairs}}",
        ["r.yaml:7:16: data.validation.path: data.train.0 reads train.jsonl too; "
         "a leak: these rows would be trained on"],
    ),
    "read twice": (
        "  validation:",
        "    - {path: train.jsonl, format: {use: pairs}}\n  validation:",
        ["r.yaml:7:8: data.train.1.path: data.train.0 reads train.jsonl too; read each file once"],
    ),
    "one split trained and evaluated on": (
        "    - {path: train.jsonl, format: {use: pairs}}\n  validation: 10%\n  evals:\n    held: {path: held.jsonl,",
        "    - {hub: a/b, format: {use: pairs}}\n  validation: 10%\n  evals:\n    held: {hub: a/b, split: train,",
        ["r.yaml:9:12: data.evals.held.hub: data.train.0 reads a/b/train too; "
         "a leak: these rows would be trained on"],
    ),
    "formatter and evaluator": (
        "held: {path: held.jsonl, format: {use: pairs}}",
        "held: {path: held.jsonl, format: {use: lines}}",
        ["r.yaml:13:5: evaluate.1: 'same' takes conversation examples and data.evals.held holds text"],
    ),
    "evaluators without evals": (
        "  evals:\n    held: {path: held.jsonl, format: {use: pairs}}\n",
        "",
        ["r.yaml:9:1: evaluate: there is nothing to evaluate on; name an eval set under data.evals"],
    ),
    "evals without evaluators": (
        "evaluate:\n  - {use: loss}\n  - {use: same}\n",
        "",
        ["r.yaml:8:3: data.evals: no evaluator reads these; add one under `evaluate:`"],
    ),
    "answers that nothing reads": (
        "  - {use: same}\n",
        "answers: {batch_size: 4}\n",
        ["r.yaml:13:1: answers: no evaluator of this recipe reads answers; remove it"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "lines"), BAD.values(), ids=list(BAD))
def test_bad_recipe(toys, check_recipe, old, new, lines):
    assert old in GOOD
    outcome = check_recipe(GOOD.replace(old, new, 1) if old else new)
    assert outcome.err.splitlines() == lines
    assert outcome.out == ""
    assert outcome.code == 2


def test_the_good_recipe_is_good(toys, check_recipe):
    assert check_recipe(GOOD) == (
        0,
        "r.yaml: the recipe is valid\ntrain: train.jsonl: 1 rows\nevals.held: held.jsonl: 1 rows\n",
        "",
    )


def test_no_file_of_text(ftp, toys, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    assert ftp("check", "latin.yaml").err == "latin.yaml:1:9: not UTF-8: byte 0xf6; save it as UTF-8\n"
    assert ftp("check", "none.yaml").err == "none.yaml: No such file or directory\n"
    assert ftp("check", str(tmp_path)).err == f"{tmp_path}: Is a directory\n"


def test_in_a_process_of_its_own(toys, tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD.replace("rank: 16", "rank: 0"))
    done = subprocess.run(
        [sys.executable, "-m", "ftp", "check", "r.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "r.yaml:3:22: adapter.rank: must be greater than or equal to 1, not 0\n"
    assert done.stdout == ""
