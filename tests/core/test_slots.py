"""Fields annotated with a kind, at any depth of a third party's components."""

import json
import pickle

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from ftp import plugins, recipe
from ftp.cli import cli
from ftp.errors import RecipeError
from ftp.provenance.fingerprints import fingerprints

HOUSE = '''\
"""Components with slots of every shape."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

import ftp
from ftp.options import Options
from toys import Pairs, Store


class Words(ftp.Formatter):
    """A formatter of the house."""

    column: str = "words"
    """Where they are."""

    def format(self, row):
        return ftp.Example(text=row[self.column])


class Vault(ftp.Loader):
    """A loader that needs a package which nobody has."""

    requires: ClassVar = ("no_such_package",)
    shelf: int = Field(1, ge=1)
    """Where it lies."""

    def load(self, request):
        raise ftp.ModelError("nothing there")

    def problems(self):
        return ["shelf: is empty"] if self.shelf == 13 else []


class Fast(Options):
    """One way."""

    way: Literal["fast"]
    """Which."""


class Slow(Options):
    """The other, with a slot."""

    way: Literal["slow"]
    """Which."""
    loader: ftp.Loader
    """What is slow."""


class Nested(Options):
    """A block of options with slots of its own, and room for more of its kind."""

    reader: ftp.Formatter = Pairs(system="be kind")
    """Reads rows."""
    inner: "Nested | None" = None
    """Another."""


class Ensemble(ftp.Evaluator):
    """An evaluator with slots, also for its own kind."""

    members: list[ftp.Evaluator] = Field(default_factory=list, max_length=3)
    """Those that vote."""
    judge: ftp.Loader = Store(id="default/model")
    """A model."""
    spare: ftp.Loader | None = None
    """Another."""
    shelf: dict[str, Annotated[ftp.Loader, Field(description="one")]] = Field(default_factory=dict)
    """More of them."""
    narrow: Store | None = None
    """Nothing but a Store."""
    choice: ftp.Formatter | int = 3
    """A formatter or a number."""
    options: Nested = Nested()
    """A block."""
    way: Fast | Slow | None = Field(None, discriminator="way")
    """Blocks that are told apart by a key of their own."""
    weight: float = 1.0
    """Not a slot."""

    @field_validator("members")
    @classmethod
    def of_the_written_classes(cls, members):
        assert all("made" not in type(member).__module__ for member in members)
        return members

    def files(self):
        return []

    def score(self, example, answer):
        return 1.0


class Listed(ftp.Evaluator):
    """An evaluator with a file of its own."""

    word_list: ftp.FilePath
    """Its words."""

    def files(self):
        return [Path(self.word_list)]

    def score(self, example, answer):
        return 1.0


@ftp.hookimpl
def ftp_formatters():
    return {"words": Words}


@ftp.hookimpl
def ftp_loaders():
    return {"vault": Vault}


@ftp.hookimpl
def ftp_evaluators():
    return {"ensemble": Ensemble, "listed": Listed}
'''


@pytest.fixture
def house(toys, ftp_install, monkeypatch):
    ftp_install("house", HOUSE)
    return plugins.load()


@pytest.fixture
def read(toy_recipe, house):
    def read(**options):
        return recipe.read(toy_recipe(evaluate=[{"use": "ensemble", **options}]), house)

    return read


@pytest.fixture
def problems(read, tmp_path):
    def problems(**options):
        with pytest.raises(RecipeError) as caught:
            read(**options)
        return [problem.replace(f"{tmp_path / 'recipe.yaml'}:", "") for problem in caught.value.problems]

    return problems


FULL = {
    "members": [{"use": "same", "pattern": "a"}, {"use": "ensemble", "members": [{"use": "loss"}]}],
    "judge": {"use": "store", "id": "some/judge"},
    "spare": {"use": "store", "id": "some/spare"},
    "shelf": {"first": {"use": "store", "id": "some/first"}},
    "narrow": {"use": "store", "id": "some/narrow"},
    "choice": {"use": "words", "column": "said"},
    "options": {"inner": {"reader": {"use": "lines"}}},
}


def test_a_slot_is_filled_wherever_it_stands(read):
    import house
    import toys

    found = read(**FULL).evaluate[0]
    assert type(found) is house.Ensemble
    same, inner = found.members
    assert (type(same), same.pattern, same.used_as) == (toys.Same, "a", "same")
    assert [type(of) for of in inner.members] == [toys.Loss]
    assert (found.judge, found.spare) == (toys.Store(id="some/judge").named("store"), found.spare)
    assert (found.spare.id, found.shelf["first"].id, found.narrow.id) == ("some/spare", "some/first", "some/narrow")
    assert (type(found.choice), found.choice.used_as) == (house.Words, "words")
    assert type(found.options) is house.Nested
    assert type(found.options.inner.reader) is toys.Lines


def test_recipes_with_slots_pickle_and_compare_equal(read):
    found = read(**FULL)
    assert found == read(**FULL)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_default_is_named_as_a_recipe_would_name_it_and_shared_by_no_two_recipes(read):
    import house

    found, other = read().evaluate[0], read().evaluate[0]
    assert (found.judge.used_as, found.judge.id) == ("store", "default/model")
    assert (found.options.reader.used_as, found.options.reader.system) == ("pairs", "be kind")
    assert found.options.reader is not other.options.reader
    assert house.Ensemble.model_fields["judge"].default.used_as == "Store", "the default of the class is untouched"
    assert not found.model_fields_set and found.choice == 3


@pytest.mark.parametrize("options", [{}, FULL])
def test_the_resolved_recipe_is_the_same_recipe(read, house, tmp_path, options):
    found = read(**options)
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(found.resolved(), sort_keys=False))
    again = recipe.read(file, house)
    assert again.resolved() == found.resolved()
    assert found.resolved()["evaluate"][0]["options"]["reader"] == {
        "use": "pairs",
        "instruction": "instruction",
        "response": "response",
        "system": "be kind",
    }


def test_the_schema_knows_the_slots_and_their_defaults(read, house):
    schema = recipe.json_schema(house)
    ensemble = schema["$defs"]["Ensemble"]["properties"]
    assert {entry["$ref"] for entry in ensemble["members"]["items"]["oneOf"]} >= {"#/$defs/Ensemble", "#/$defs/Same"}
    assert ensemble["narrow"]["anyOf"][0] == {"$ref": "#/$defs/Store"}
    assert ensemble["judge"]["default"] == {"use": "store", "id": "default/model", "device": "cpu"}
    assert ensemble["options"]["default"]["reader"]["use"] == "pairs"
    checker = jsonschema.Draft202012Validator(schema)
    written = {**read(**FULL).resolved()}
    checker.validate(json.loads(json.dumps(written)))
    written["evaluate"] = [{"use": "ensemble", "members": [{"use": "ensemble", "members": [{"use": "nobody"}]}]}]
    assert not checker.is_valid(written)


def test_every_mistake_is_named_at_its_place(problems):
    assert problems(
        members=[{"use": "same", "patern": "a"}, {"use": "ensemble", "members": [{"use": "smae"}]}],
        judge={"use": "store"},
        spare={"use": "vault", "shelf": 0},
        shelf={"first": {"id": "some/first"}},
        choice={"use": "words", "colum": "a"},
        options={"inner": {"reader": {"use": "pears"}}},
    ) == [
        "24:5: evaluate.0.members.0.patern: unknown key; did you mean 'pattern'?",
        "27:7: evaluate.0.members.1.members.0.use: nothing called \"smae\" is installed; did you mean 'same'?",
        "28:3: evaluate.0.judge.id: is missing",
        "32:5: evaluate.0.spare.shelf: must be greater than or equal to 1, not 0",
        "34:5: evaluate.0.shelf.first.use: is missing; one of store, vault",
        "38:5: evaluate.0.choice.colum: unknown key; did you mean 'column'?",
        "42:9: evaluate.0.options.inner.reader.use: nothing called \"pears\" is installed; did you mean 'pairs'?",
    ]


def test_what_a_field_demands_of_a_slot_is_kept(problems):
    (problem,) = problems(way={"way": "slow", "loader": {"use": "store"}})
    assert problem.endswith("evaluate.0.way.loader.id: is missing")
    (problem,) = problems(members=[{"use": "loss"}] * 4)
    assert "evaluate.0.members: List should have at most 3 items" in problem
    assert 'evaluate.0.narrow.use: nothing called "vault" is installed' in problems(narrow={"use": "vault"})[-1]


def test_packages_and_problems_are_found_at_any_depth(problems):
    place = "evaluate.0.members.0.spare"
    found = problems(members=[{"use": "ensemble", "spare": {"use": "vault", "shelf": 13}}])
    assert found[0].endswith(f"{place}: vault needs no_such_package: pip install 'no_such_package'")
    assert found[1].endswith(f"{place}.shelf: is empty")


def test_the_lock_knows_the_plugins_and_files_of_slots(toy_recipe, house, tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    members = [{"use": "listed", "word_list": "words.txt"}]
    file = toy_recipe(evaluate=[{"use": "ensemble", "members": members}])
    lock = fingerprints(recipe.read(file, house), house)
    assert {"toys:toys", "house:house"} == set(lock["plugins"])
    assert str(tmp_path / "words.txt") in lock["data"]
    alone = fingerprints(recipe.read(toy_recipe(), house), house)
    assert set(alone["plugins"]) == {"toys:toys"}


def test_a_default_that_nobody_offers_is_an_error(toy_recipe, toys, ftp_install):
    ftp_install(
        "shy",
        """
import ftp


class Hidden(ftp.Loader):
    def load(self, request): ...


class Shy(ftp.Evaluator):
    judge: ftp.Loader = Hidden()

    def score(self, example, answer):
        return 1.0


@ftp.hookimpl
def ftp_evaluators():
    return {"shy": Shy}
""",
    )
    with pytest.raises(RecipeError, match=r"evaluate\.0\.judge: the default is a Hidden, which no plugin"):
        recipe.read(toy_recipe(evaluate=[{"use": "shy"}]), plugins.load())


def test_an_option_with_the_name_of_its_component_has_its_own_place(toy_recipe, toys, ftp_install):
    ftp_install(
        "twin",
        """
import ftp


class Twin(ftp.Evaluator):
    twin: int = 1

    def score(self, example, answer):
        return 1.0


@ftp.hookimpl
def ftp_evaluators():
    return {"twin": Twin}
""",
    )
    with pytest.raises(RecipeError, match=r'evaluate\.0\.twin: must be a whole number, not "a"'):
        recipe.read(toy_recipe(evaluate=[{"use": "twin", "twin": "a"}]), plugins.load())


def test_plugins_show_says_what_a_slot_takes(house):
    shown = CliRunner().invoke(cli, ["plugins", "show", "ensemble"]).output
    assert "judge  (a block: store, vault; default {'use': 'store', 'id': 'default/model', 'device': 'cpu'})" in shown
    assert "spare  (a block: store, vault; default None)" in shown
    found = CliRunner().invoke(cli, ["plugins", "show", "ensemble", "--json"]).output
    assert json.loads(found)[0]["$defs"]["Vault"]["properties"]["use"]["const"] == "vault"


def test_recipe_models_of_other_sets_of_plugins_are_apart(house, toys):
    without = plugins.load(without=["house:house"])
    assert "vault" in json.dumps(recipe.json_schema(house))
    assert "vault" not in json.dumps(recipe.json_schema(without))
