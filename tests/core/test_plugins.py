"""Finding plugins, loading them, and naming the one that is to blame."""

import importlib
import pickle
import sys
from pathlib import Path

import pytest

from ftp import plugins
from ftp.errors import PluginError

HOUSE = """
import ftp

class House(ftp.Evaluator):
    '''The house's own.'''
    def score(self, example, answer): return 1.0

@ftp.hookimpl
def ftp_evaluators(): return {"house": House}
"""
HOOKS = ", ".join(f"ftp_{kind}" for kind in plugins.KINDS)


def plugin(name, **more):
    (found,) = [plugin for plugin in plugins.load(**more).plugins if plugin.name == name]
    return found


def test_a_good_plugin(ftp_install):
    ftp_install("acme-evals", HOUSE, version="1.2", entry_points={"evals": "acme_evals"})
    found = plugins.load()
    offer = found.offers("evaluators")["house"]
    assert offer.plugin.name == "acme-evals:evals"
    assert offer.plugin.version == "1.2"
    assert offer.plugin.offers == [("evaluators", "house")]
    assert offer.plugin.error is None
    assert offer.component.__name__ == "House"
    assert not found.broken()


def test_an_object_can_be_a_plugin(ftp_install):
    bundle = "class Bundle:\n    @ftp.hookimpl\n    def ftp_evaluators(self): return {'home': House}\n"
    source = f"{HOUSE}\n{bundle}\nbundle = Bundle()\n"
    ftp_install("acme-evals", source, entry_points={"bundle": "acme_evals:bundle"})
    assert plugins.load().offers("evaluators")["home"].plugin.name == "acme-evals:bundle"


# Source of a plugin and what is said of it ({file} is its module)
BROKEN = {
    "import error": ("import ftp\nimport no_such_thing\n",
        "ModuleNotFoundError: No module named 'no_such_thing' ({file}:2)"),
    "error at import": ("def f():\n    return {}['key']\n\nf()\n", "KeyError: 'key' ({file}:2)"),
    "syntax error": ("x = (\n", "SyntaxError: '(' was never closed ({file}:1)"),
    "exit at import": ("import sys\nsys.exit('bye')\n", "SystemExit: bye ({file}:2)"),
    "several lines": ("raise RuntimeError('one\\ntwo')\n", "RuntimeError: one ({file}:1)"),
    "misspelt hook": (
        HOUSE.replace("def ftp_evaluators", "def ftp_evaluator"),
        "unknown hook 'ftp_evaluator' in {file}; did you mean 'ftp_evaluators'?",
    ),
    "misspelt hook without our prefix": (
        HOUSE.replace("def ftp_evaluators", "def fpt_evaluators"),
        "unknown hook 'fpt_evaluators' in {file}; did you mean 'ftp_evaluators'?",
    ),
    "hook without its mark": (HOUSE.replace("@ftp.hookimpl\n", ""),
        "'ftp_evaluators' in {file} lacks its @ftp.hookimpl"),
    "no hook": ("x = 1\n", "{file} defines no hook; one of " + HOOKS + " is needed"),
    "hook with an argument": (
        HOUSE.replace("ftp_evaluators()", "ftp_evaluators(config)"),
        "Plugin 'acme-evals:acme-evals' for hook 'ftp_evaluators' hookimpl definition: ftp_evaluators(config) "
        "Argument(s) {{'config'}} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "hook that fails": (
        HOUSE.replace('return {"house": House}', "return {}['house']"),
        "its hook ftp_evaluators: KeyError: 'house' ({file}:9)",
    ),
    "hook that exits": (
        HOUSE.replace('return {"house": House}', "raise SystemExit(3)"),
        "its hook ftp_evaluators: SystemExit: 3 ({file}:9)",
    ),
    "hook that returns a list": (
        HOUSE.replace('{"house": House}', "[House]"),
        "its hook ftp_evaluators: returned list, not a dict of name to class",
    ),
    "hook that returns nothing": (
        HOUSE.replace('return {"house": House}', "pass"),
        "its hook ftp_evaluators: returned NoneType, not a dict of name to class",
    ),
    "bad name": (
        HOUSE.replace('"house"', '"House-1"'),
        "its hook ftp_evaluators: the name 'House-1' is not lower case letters, digits and underscores",
    ),
    "an instance": (
        HOUSE.replace('"house": House', '"house": House()'),
        "its hook ftp_evaluators: 'house' is not a subclass of ftp.Evaluator",
    ),
    "another kind": (
        HOUSE.replace("ftp_evaluators", "ftp_formatters"),
        "its hook ftp_formatters: 'house' is not a subclass of ftp.Formatter",
    ),
    "abstract": (
        HOUSE.replace("ftp.Evaluator", "ftp.Formatter").replace("ftp_evaluators", "ftp_formatters"),
        "its hook ftp_formatters: 'house' (House) does not define format",
    ),
    "neither score nor evaluate": (
        HOUSE.replace("def score", "def rate"),
        "its hook ftp_evaluators: 'house' (House) defines neither score nor evaluate",
    ),
    "an option called use": (
        HOUSE.replace("    def score", "    use: str = ''\n    def score"),
        "its hook ftp_evaluators: 'house' has an option called 'use', which names the component itself",
    ),
    "an option of no known type": (
        "from __future__ import annotations\n" + HOUSE.replace("    def score", "    at: Path = ''\n    def score"),
        "its hook ftp_evaluators: PydanticUndefinedAnnotation: name 'Path' is not defined",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_is_recorded_and_harms_nobody_else(ftp_install, source, said):
    site = ftp_install("acme-evals", source)
    good = HOUSE.replace('"house"', '"good"')
    ftp_install("acme-good", good)
    found = plugins.load()
    (broken,) = found.broken()
    assert broken.name == "acme-evals:acme-evals"
    assert broken.error == said.format(file=site / "acme_evals.py")
    assert found.offers("evaluators")["good"].plugin.name == "acme-good:acme-good"
    assert "house" not in {*found.offers("evaluators"), *found.offers("formatters")}
    assert found.clashes == []


def test_one_bad_hook_takes_all_of_a_plugin_out_and_clashes_with_nobody(ftp_install):
    """Whatever the order: what a broken plugin offers is not there."""
    bad = HOUSE + "\n@ftp.hookimpl\ndef ftp_reporters(): return 7\n"
    ftp_install("acme-a", bad)
    ftp_install("acme-b", HOUSE)
    found = plugins.load()
    assert [plugin.name for plugin in found.broken()] == ["acme-a:acme-a"]
    assert found.clashes == []
    assert found.offers("evaluators")["house"].plugin.name == "acme-b:acme-b"


def test_a_missing_attribute_of_an_entry_point(ftp_install):
    ftp_install("acme-evals", HOUSE, entry_points={"evals": "acme_evals:nothing"})
    assert plugin("acme-evals:evals").error == "AttributeError: module 'acme_evals' has no attribute 'nothing'"


def test_two_entry_points_for_one_module(ftp_install):
    site = ftp_install("acme-evals", HOUSE, entry_points={"a": "acme_evals", "b": "acme_evals"})
    assert plugin("acme-evals:a").error is None
    assert plugin("acme-evals:b").error == (
        f"{site}/acme_evals.py is registered already, as acme-evals:a; give each entry point its own module"
    )


def test_two_distributions_with_one_entry_point_name(ftp_install):
    ftp_install("acme-one", HOUSE, entry_points={"evals": "acme_one"})
    ftp_install("acme-two", HOUSE.replace('"house"', '"home"'), entry_points={"evals": "acme_two"})
    found = plugins.load().offers("evaluators")
    assert found["house"].plugin.name == "acme-one:evals"
    assert found["home"].plugin.name == "acme-two:evals"


# --- clashes -------------------------------------------------------------------------------------------------------


def test_a_clash_names_both(ftp_install):
    ftp_install("acme-one", HOUSE)
    ftp_install("acme-two", HOUSE)
    assert plugins.load().clashes == [
        "evaluators 'house' is offered by both acme-one:acme-one and acme-two:acme-two; "
        "disable one: --no-plugin acme-two:acme-two"
    ]
    assert plugins.load(without=["acme-two:acme-two"]).clashes == []


def test_a_clash_of_files(ftp_install, tmp_path):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(HOUSE)
    found = plugins.load(files=[tmp_path / "one.py", tmp_path / "two.py"])
    assert found.clashes == [
        f"evaluators 'house' is offered by both file:{tmp_path}/one.py and file:{tmp_path}/two.py; rename one of them"
    ]
    ftp_install("acme-evals", HOUSE)
    assert plugins.load(files=[tmp_path / "one.py"]).clashes == [
        f"evaluators 'house' is offered by both acme-evals:acme-evals and file:{tmp_path}/one.py; "
        "rename yours, or disable the other: --no-plugin acme-evals:acme-evals"
    ]


# --- kept out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["acme-evals:Evals", "Acme_Evals:Evals", " ACME.evals:Evals "])
def test_kept_out(ftp_install, monkeypatch, spelling):
    ftp_install("Acme_Evals", HOUSE, entry_points={"Evals": "Acme_Evals"})
    assert "house" in plugins.load().offers("evaluators")
    for found in (plugins.load(without=[spelling]), with_environment(monkeypatch, f"none:such,{spelling},")):
        assert "house" not in found.offers("evaluators")
        (kept_out,) = [plugin for plugin in found.plugins if plugin.disabled]
        assert kept_out.name == "acme-evals:Evals"
        assert kept_out.error == "disabled by --no-plugin or FTP_PLUGINS_DISABLED"
        assert found.broken() == []


def with_environment(monkeypatch, value):
    monkeypatch.setenv("FTP_PLUGINS_DISABLED", value)
    return plugins.load()


def test_what_is_kept_out_is_not_imported(ftp_install):
    ftp_install("acme-evals", "raise RuntimeError\n")
    assert plugins.load(without=["acme-evals:acme-evals"]).broken() == []
    assert "acme_evals" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acme-eval:house", "no such plugin; did you mean 'acme-evals:house'?"),
        ("acme-evals", "no such plugin; did you mean 'acme-evals:house'?"),
    ],
)
def test_to_keep_out_what_is_not_there_is_an_error(ftp_install, name, said):
    ftp_install("acme-evals", HOUSE, entry_points={"house": "acme_evals"})
    with pytest.raises(PluginError) as caught:
        plugins.load(without=[name])
    assert str(caught.value) == f"--no-plugin {name}: {said}"


# --- -p file.py ----------------------------------------------------------------------------------------------------


def test_a_file(tmp_path):
    (tmp_path / "my-eval.py").write_text(HOUSE)
    offer = plugins.load(files=[tmp_path / "my-eval.py"]).offers("evaluators")["house"]
    assert offer.plugin.name == f"file:{tmp_path}/my-eval.py"
    assert pickle.loads(pickle.dumps(offer.component())) == offer.component()


def test_a_file_given_twice_is_one(tmp_path):
    (tmp_path / "mine.py").write_text(HOUSE)
    found = plugins.load(files=[tmp_path / "mine.py"] * 2)
    assert found.clashes == []
    assert "house" in found.offers("evaluators")


def test_files_of_one_name_are_two_modules(tmp_path):
    for directory, name in (("a", "first"), ("b", "second")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "mine.py").write_text(HOUSE.replace('"house"', f'"{name}"'))
    found = plugins.load(files=[tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"]).offers("evaluators")
    for name in ("first", "second"):
        assert pickle.loads(pickle.dumps(found[name].component())) == found[name].component()


def test_the_docstrings_of_a_file_are_the_help_of_its_options(tmp_path):
    (tmp_path / "mine.py").write_text(
        HOUSE.replace("    def score", "    most: int = 5\n    '''Words.'''\n    def score")
    )
    offer = plugins.load(files=[tmp_path / "mine.py"]).offers("evaluators")["house"]
    assert offer.component.model_fields["most"].description == "Words."


@pytest.mark.parametrize(
    "name", ["syntax error", "exit at import", "misspelt hook", "no hook", "abstract", "hook that fails"]
)
def test_a_broken_file_is_an_error_at_once(tmp_path, name):
    source, said = BROKEN[name]
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(PluginError) as caught:
        plugins.load(files=[file])
    assert str(caught.value) == f"-p {file}: {said.format(file=file)}"


def test_no_file(tmp_path):
    with pytest.raises(PluginError, match=r"-p .*none\.py: no such file"):
        plugins.load(files=[tmp_path / "none.py"])
    (tmp_path / "notes.txt").write_text(HOUSE)
    with pytest.raises(PluginError, match=r"-p .*notes\.txt: not a Python file: its name must end in \.py"):
        plugins.load(files=[tmp_path / "notes.txt"])


def test_a_file_that_fails_leaves_no_module_behind(tmp_path):
    (tmp_path / "mine.py").write_text("raise RuntimeError\n")
    before = set(sys.modules)
    with pytest.raises(PluginError):
        plugins.load(files=[tmp_path / "mine.py"])
    assert not {name for name in set(sys.modules) - before if name.startswith("ftp_file")}


# --- what the command line says ------------------------------------------------------------------------------------


def test_a_broken_plugin_is_a_warning_until_it_is_named(ftp, ftp_install, toys, tmp_path):
    site = ftp_install("acme-broken", "import no_such_thing\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    recipe = (
        "name: x\nmodel: {use: store, id: some/model}\nadapter: {use: part}\ntrain: {use: steps}\n"
        "data: {train: [{path: rows.jsonl, format: {use: lines}}]}\n"
    )
    reason = f"ModuleNotFoundError: No module named 'no_such_thing' ({site}/acme_broken.py:1)"
    warning = f"warning: plugin acme-broken:acme-broken is broken and not in use: {reason}"
    (tmp_path / "r.yaml").write_text(recipe)
    outcome = ftp("check", "r.yaml")
    assert (outcome.code, outcome.err.splitlines()) == (0, [warning])

    (tmp_path / "r.yaml").write_text(recipe.replace("use: lines", "use: tickets"))
    outcome = ftp("check", "r.yaml")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        warning,
        'r.yaml:5:44: data.train.0.format.use: nothing called "tickets" is installed; '
        "known: lines, pairs "
        f"(plugin acme-broken:acme-broken is not in use: {reason})",
    ]
    assert ftp("check", "r.yaml", "--no-plugin", "acme-broken:acme-broken").err.count("\n") == 1


def test_how_to_get_what_a_component_needs(ftp_install):
    source = HOUSE.replace(
        "    def score",
        "    requires = ('Nice_thing', 'other', 'json', 'no.such.parent', 'big_one', 'nice.thing')\n    def score",
    )
    site = ftp_install("acme-evals", source.replace("requires =", "requires: __import__('typing').ClassVar ="))
    metadata = Path(site, "acme_evals-0.1.dist-info", "METADATA")
    needed = ["big.one; extra == 'all'", "nice.thing>=1; extra == 'all'"]
    needed += ["nice.thing>=1; python_version>'3' and extra == 'nice'"]
    metadata.write_text(metadata.read_text() + "".join(f"Requires-Dist: {each}\n" for each in needed))
    importlib.invalidate_caches()
    offer = plugins.load().offers("evaluators")["house"]
    assert list(plugins.missing_packages(offer)) == [
        "house needs Nice_thing, nice.thing: pip install 'acme-evals[nice]'",
        "house needs other: pip install 'other'",
        "house needs no.such.parent: pip install 'no.such.parent'",
        "house needs big_one: pip install 'acme-evals[all]'",
    ]
