"""Reading a good recipe: overrides, numbers, defaults, the schema; and checks that need a plugin of the test's own."""

import json
import pickle
from pathlib import Path

import jsonschema
import pytest
import yaml

from ftp import plugins, recipe, yaml_source
from ftp.errors import RecipeError
from ftp.options import AnswerOptions

GOOD = """\
name: good
model: {use: store, id: some/model}
adapter: {use: part, rank: 8}
data:
  train:
    - {path: train.jsonl, format: {use: pairs}}
    - {path: general.jsonl, format: {use: pairs}, role: replay}
  validation: 10%
  evals:
    held: {path: held.jsonl, format: {use: pairs, response: said}}
  curate:
    - {use: blend, replay: 5%}
train: {use: steps, epochs: 2, learning_rate: 1e-4}
answers: {max_new_tokens: 32}
evaluate:
  - {use: loss}
  - {use: same, pattern: '(\\d+)'}
report:
  - {use: plain}
"""


@pytest.fixture
def installed(toys):
    return plugins.load()


@pytest.fixture
def read(tmp_path, installed):
    def read(text=GOOD, *settings, plugins=installed):
        file = tmp_path / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        return recipe.read(file, plugins, settings)

    return read


@pytest.fixture
def problems(read, tmp_path):
    """The problems of a recipe, without its directory."""

    def problems(text=GOOD, *settings, **more):
        with pytest.raises(RecipeError) as caught:
            read(text, *settings, **more)
        return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return problems


# --- a good one ----------------------------------------------------------------------------------------------------


def test_blocks_are_the_plugins_own_objects(read, toys, tmp_path):
    found = read()
    assert type(found.adapter) is toys.Part
    assert found.adapter.model_dump() == toys.Part(rank=8).model_dump()
    assert found.adapter.used_as == "part"
    assert found.data.train[0].path == str(tmp_path / "train.jsonl")
    assert type(found.data.train[0].format) is toys.Pairs
    assert found.data.evals["held"].format.response == "said"
    assert found.data.validation == pytest.approx(0.1)
    assert found.data.curate[-1].replay == pytest.approx(0.05)
    assert found.train.learning_rate == 1e-4
    assert found.train.epochs == 2.0
    assert found.answers == toys.Echo(max_new_tokens=32).named("echo")
    # `answers:` without `use:`, as recipes written for 0.1 have it
    assert found.answers.options == AnswerOptions(max_new_tokens=32)
    assert [evaluator.used_as for evaluator in found.evaluate] == ["loss", "same"]


def test_two_readings_are_equal_and_a_recipe_pickles(read):
    found = read()
    assert read() == found
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert again.adapter.used_as == "part"


def test_a_component_knows_what_was_given(read):
    assert read().adapter.model_fields_set == {"rank"}


@pytest.mark.parametrize("validation", ["10%", "0", "{path: watched.csv, format: {use: lines}}"])
@pytest.mark.parametrize("answers", [True, False])
def test_resolved_reads_back_the_same(read, validation, answers):
    text = GOOD.replace("10%", validation)
    if not answers:  # with no evaluator that reads answers
        text = text.replace("answers: {max_new_tokens: 32}\n", "").replace("  - {use: same, pattern: '(\\d+)'}\n", "")
    found = read(text)
    resolved = found.resolved()
    assert resolved["adapter"]["bias"] is False  # a default, written out
    assert ("answers" in resolved) == answers
    again = read(yaml.safe_dump(resolved, sort_keys=False))
    assert again.resolved() == resolved
    assert again.data == found.data
    assert json.loads(json.dumps(resolved)) == resolved


def test_resolved_has_one_order_for_sets(read, ftp_install):
    ftp_install(
        "acme-sets",
        "import datetime, ftp\n"
        "class Words(ftp.Evaluator):\n"
        "    '''Counts words.'''\n"
        "    words: frozenset[str] = frozenset()\n"
        "    since: datetime.date = datetime.date(2020, 1, 1)\n"
        "    def score(self, example, answer): return 0.0\n"
        "@ftp.hookimpl\n"
        "def ftp_evaluators(): return {'words': Words}\n",
    )
    found = read(
        GOOD.replace("{use: loss}", "{use: words, words: [l, k, j, i, h, g, f, e, d, c, b, a]}"), plugins=plugins.load()
    )
    assert found.resolved()["evaluate"][0] == {"use": "words", "words": list("abcdefghijkl"), "since": "2020-01-01"}


# --- YAML 1.2 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+7", 7),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ("=", "="),
        ("<<", "<<"),
        ('"\\ud83d\\ude00"', "😀"),
        ("größe", "größe"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written, value):
    parsed = yaml_source.parse(f"key: {written}", "r.yaml")
    assert parsed.data == {"key": value}
    assert type(parsed.data["key"]) is type(value)
    assert parsed.problems == []


def test_yaml_1_2_for_infinities():
    found = yaml_source.parse("[.inf, -.INF, .NaN]", "r.yaml").data
    assert found[:2] == [float("inf"), -float("inf")]
    assert found[2] != found[2]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(read, problems):
    assert read("\ufeff" + GOOD.replace("\n", "\r\n")).name == "good"
    assert problems(GOOD.replace("rank: 8", "rank: x").replace("\n", "\r\n")) == [
        'recipe.yaml:3:22: adapter.rank: must be a whole number, not "x"'
    ]


def test_aliases_stand_for_what_they_name(read):
    text = GOOD.replace("format: {use: pairs}}", "format: &f {use: pairs, system: Hi}}", 1)
    text = text.replace("format: {use: pairs, response: said}", "format: *f")
    assert read(text).data.evals["held"].format.system == "Hi"


# --- --set ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "get", "value"),
    [
        ("train.epochs=1", lambda r: r.train.epochs, 1.0),
        ("train.learning_rate=3e-5", lambda r: r.train.learning_rate, 3e-5),
        ("train.max_length=64", lambda r: r.train.max_length, 64),  # a key the recipe lacks
        ("data.train.1.path=other.jsonl", lambda r: Path(r.data.train[1].path).name, "other.jsonl"),
        ("data.curate.0.replay=20%", lambda r: r.data.curate[-1].replay, 0.2),
        ("data.validation=25%", lambda r: r.data.validation, 0.25),
        ("adapter={use: whole, layers: 4}", lambda r: r.adapter.model_dump(), {"layers": 4}),
        ("evaluate.0={use: same}", lambda r: r.evaluate[0].used_as, "same"),
        ("data.evals.2024={path: x.csv, format: {use: pairs}}", lambda r: sorted(r.data.evals), ["2024", "held"]),
        ("evaluate.1.pattern=a=b", lambda r: r.evaluate[1].pattern, "a=b"),
        ("evaluate.1.pattern=", lambda r: r.evaluate[1].pattern, None),
        ("seed=7", lambda r: r.seed, 7),
    ],
)
def test_set(read, setting, get, value):
    assert get(read(GOOD, setting)) == value


def test_set_makes_the_blocks_above_it(read):
    assert read(GOOD.replace("answers: {max_new_tokens: 32}\n", ""), "answers.batch_size=3").answers.batch_size == 3


def test_the_later_set_wins(read):
    assert read(GOOD, "train.epochs=1", "train.epochs=5").train.epochs == 5


@pytest.mark.parametrize(
    ("setting", "lines"),
    [
        ("train.epochs=many", ['train.epochs: must be a number, not "many"']),
        ("train.epoch=1", ["train.epoch: unknown key; did you mean 'epochs'?"]),
        ("trian.epochs=1", ["trian: unknown key; did you mean 'train'?"]),
        ("adapter.use=prat", ["adapter.use: nothing called \"prat\" is installed; did you mean 'part'?"]),
        ("adapter={use: whole, layers: x}", ['adapter.layers: must be a whole number, not "x"']),
        ("adapter={use: part, rank: 1, rank: 2}", ["adapter.rank: given twice; keep one"]),
        ("data.evals.2024.path=x", ["data.evals.2024.format: is missing"]),
        ("data.train.0.role=x", ["data.train.0.role: must be 'domain' or 'replay', not \"x\""]),
        ("data.train.2.role=replay", ["data.train is a list of 2 entries, counted from 0; it has no '2'"]),
        ("data.train.-1.role=replay", ["data.train is a list of 2 entries, counted from 0; it has no '-1'"]),
        ("data.train.²=x", ["data.train is a list of 2 entries, counted from 0; it has no '²'"]),
        ("data.curate.blend.replay=1%", ["data.curate is a list of 1 entry, counted from 0; it has no 'blend'"]),
        ("name.x=1", ["name is not a block, so it has no 'x'"]),
        ("train.epochs", ["write it as path=value, for example train.epochs=1"]),
        ("=1", ["write it as path=value, for example train.epochs=1"]),
        ("train..epochs=1", ["write it as path=value, for example train.epochs=1"]),
        ("train.epochs=[1", ["not valid YAML: expected ',' or ']', but got '<stream end>'"]),
        ("name=!my x", ["not valid YAML: could not determine a constructor for the tag '!my'"]),
        ("name=*x", ["not valid YAML: found undefined alias 'x'"]),
    ],
)  # fmt: skip
def test_a_wrong_set_names_the_flag(problems, setting, lines):
    assert problems(GOOD, setting) == [f"--set {setting}: {line}" for line in lines]


def test_an_override_mends_what_the_file_has_wrong(read, problems):
    text = GOOD.replace("epochs: 2", "epochs: two")
    assert problems(text) == ['recipe.yaml:13:21: train.epochs: must be a number, not "two"']
    assert read(text, "train.epochs=2").train.epochs == 2


# --- the schema ----------------------------------------------------------------------------------------------------


def test_the_schema(installed):
    schema = json.loads(json.dumps(recipe.json_schema(installed)))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = yaml_source.parse(GOOD, "r.yaml").data
    assert not list(validator.iter_errors(good))

    def errors(path, value):
        changed = json.loads(json.dumps(good))
        *above, last = path
        block = changed
        for part in above:
            block = block[part]
        block[last] = value
        return list(validator.iter_errors(changed))

    assert not errors(["adapter"], {"use": "whole"})
    assert errors(["nmae"], "x")
    assert errors(["adapter", "size"], 8)
    assert errors(["adapter", "rank"], "8")
    assert errors(["adapter", "rank"], 0)
    assert errors(["adapter", "use"], "prat")
    assert errors(["train"], {"epochs": 1})  # no `use`
    assert errors(["data", "validation"], "ten")
    assert not errors(["data", "validation"], 0.1)
    assert errors(["data", "train"], [])


# --- with plugins of the test's own --------------------------------------------------------------------------------

KINDS = """
import typing, ftp

class Pairs(ftp.Trainer):
    '''Takes conversations only.'''
    def train(self, job): ...

class Needy(ftp.Evaluator):
    '''Needs what is not there.'''
    requires: typing.ClassVar = ("no_such_package", "no_such_parent.child", "yaml")
    def score(self, example, answer): return 0.0

class Picky(ftp.Adapter):
    '''Has something to say of its options.'''
    r: int = 1
    def problems(self): return ["r: is odd", "nothing fits"]
    def apply(self, loaded): return loaded

@ftp.hookimpl
def ftp_trainers(): return {"talks": Pairs}
@ftp.hookimpl
def ftp_evaluators(): return {"needy": Needy}
@ftp.hookimpl
def ftp_adapters(): return {"picky": Picky}
"""


@pytest.fixture
def kinds(ftp_install):
    site = ftp_install("acme-kinds", KINDS)
    with (site / "acme_kinds-0.1.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: PyYAML\nRequires-Dist: no-such-package>=1; extra == 'all'\n")
    return plugins.load()


def test_formatter_and_trainer_of_different_kinds(problems, kinds):
    text = GOOD.replace("{path: train.jsonl, format: {use: pairs}}", "{path: train.jsonl, format: {use: lines}}")
    text = text.replace("{use: steps, epochs: 2, learning_rate: 1e-4}", "{use: talks}")
    assert problems(text, plugins=kinds) == [
        "recipe.yaml:6:27: data.train.0.format: 'lines' makes text examples and the trainer 'talks' takes conversation"
    ]


def test_a_missing_package_comes_with_what_to_install(problems, kinds):
    assert problems(GOOD.replace("{use: loss}", "{use: needy}"), plugins=kinds) == [
        "recipe.yaml:16:5: evaluate.0: needy needs no_such_package: pip install 'acme-kinds[all]'",
        "recipe.yaml:16:5: evaluate.0: needy needs no_such_parent.child: pip install 'no_such_parent.child'",
    ]


def test_what_a_component_finds_wrong_is_told_at_its_option(problems, kinds):
    assert problems(GOOD.replace("{use: part, rank: 8}", "{use: picky, r: 3}"), plugins=kinds) == [
        "recipe.yaml:3:23: adapter.r: is odd",
        "recipe.yaml:3:1: adapter: nothing fits",
    ]


def test_a_component_of_a_broken_plugin(problems, ftp_install):
    site = ftp_install("acme-broken", "import no_such_thing\n")
    found = plugins.load()
    assert problems(GOOD.replace("{use: loss}", "{use: brand_voice}"), plugins=found) == [
        'recipe.yaml:16:6: evaluate.0.use: nothing called "brand_voice" is installed; '
        "known: loss, same (plugin acme-broken:acme-broken is not in use: "
        f"ModuleNotFoundError: No module named 'no_such_thing' ({site}/acme_broken.py:1))"
    ]


def test_a_kind_of_which_nothing_is_installed(toys, problems, ftp_install):
    ftp_install("acme-watchers", "")
    found = plugins.load(without=["acme-watchers:acme-watchers"])
    assert problems(f"{GOOD}watch:\n  - {{use: alarm}}\n", plugins=found) == [
        "recipe.yaml:21:5: watch.0: nothing of this kind is installed "
        "(plugin acme-watchers:acme-watchers is not in use: disabled by --no-plugin or FTP_PLUGINS_DISABLED)"
    ]


def test_a_clash_stops_the_recipes_that_use_the_name(read, problems, ftp_install):
    house = (
        "import ftp\nclass House(ftp.Evaluator):\n    pattern: str | None = None\n"
        "    def score(self, example, answer): return 0.0\n"
        "@ftp.hookimpl\ndef ftp_evaluators(): return {'house': House}\n"
    )
    ftp_install("acme-one", house)
    ftp_install("acme-two", house)
    assert read(plugins=plugins.load()).name == "good"
    using = GOOD.replace("use: same", "use: house")
    assert problems(using, plugins=plugins.load()) == [
        "recipe.yaml:17:6: evaluate.1.use: evaluators 'house' is offered by both acme-one:acme-one and "
        "acme-two:acme-two; disable one: --no-plugin acme-two:acme-two"
    ]
    assert read(using, plugins=plugins.load(without=["acme-two:acme-two"])).name == "good"
