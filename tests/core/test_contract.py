"""What the bases of the kinds promise: mixins that a class has by defining their method, names, and new beginnings."""

from __future__ import annotations

from functools import cached_property

import pytest
from pydantic import PrivateAttr

import ftp
from ftp.components import unfinished
from ftp.provenance.changes import changes
from ftp.stages.evaluate import leaked_rows
from ftp.stages.load_model import load_tokenizer
from ftp.stages.own_evals import bring_evals


class Plain(ftp.Evaluator):
    """Scores."""

    def score(self, example, answer):
        return 1.0


class OldBringer(Plain):
    """Brings eval sets, as written against 0.1."""

    def own_evals(self):
        return {"own": [ftp.Example(text="a text", source="own.txt")]}


class OldMeter(Plain):
    """Measures a model, as written against 0.1."""

    def measure(self, model):
        return {"layers": 2}


class Bringer(Plain, ftp.BringsEvals):
    """Brings eval sets."""

    def own_evals(self):
        return {}


@pytest.mark.parametrize(
    ("cls", "brings", "measures"),
    [(Plain, False, False), (OldBringer, True, False), (OldMeter, False, True), (Bringer, True, False)],
)
def test_an_evaluator_has_the_mixin_whose_method_it_defines(cls, brings, measures):
    evaluator = cls()
    assert isinstance(evaluator, ftp.BringsEvals) is brings
    assert isinstance(evaluator, ftp.MeasuresModel) is measures
    assert evaluator.on_its_own is (brings or measures)


def test_only_what_is_brought_is_an_eval_set():
    assert list(bring_evals([Plain(), OldMeter(), OldBringer(), Bringer()])) == ["own"]


def test_a_mixin_without_its_method_is_unfinished():
    class Promise(Plain, ftp.MeasuresModel):
        """Measures nothing."""

    assert unfinished(Promise) == "does not define measure"


def test_a_loader_without_a_tokenizer_of_its_own():
    class Weights(ftp.Loader):
        """Loads weights and tokenizer together."""

        def load(self, request):
            raise AssertionError

    class Both(Weights):
        """Loads a tokenizer too, as written against 0.1."""

        def load_tokenizer(self):
            return ftp.LoadedTokenizer(None, (2,))

    assert load_tokenizer(Weights()) is None and not isinstance(Weights(), ftp.LoadsTokenizer)
    assert load_tokenizer(Both()).stops == (2,) and isinstance(Both(), ftp.LoadsTokenizer)


class Counter(ftp.Watcher):
    """Counts events."""

    most: int = 3
    """Events to count."""

    _count: int = PrivateAttr(default=0)

    @cached_property
    def _steps(self):
        return []

    def see(self, event):
        self._count += 1
        self._steps.append(event)


def test_a_component_begins_anew_with_its_options_and_its_name():
    counter = Counter(most=5).named("five")
    counter.see({"event": "note"})
    other = counter.anew()
    assert (other.most, other.used_as, other._count, other._steps) == (5, "five", 0, [])
    assert (counter._count, len(counter._steps)) == (1, 1)
    assert other.model_fields_set == {"most"}


def test_a_name_is_given_to_a_copy():
    counter = Counter()
    assert counter.named("few").used_as == "few"
    assert counter.used_as == "Counter"


def test_a_curator_says_which_of_its_findings_are_leaks():
    class Own(ftp.Curator):
        """Has its own word."""

        leaks = ("copied",)

        def curate(self, corpus, ledger):
            return corpus

    findings = [{"id": f"t:{n}", "what": what, "other": f"e:{n}"} for n, what in enumerate(("leak", "copied", "like"))]
    assert leaked_rows(findings, lambda id: True) == {"e:0"}
    assert leaked_rows(findings, lambda id: True, [Own()]) == {"e:0", "e:1"}
    assert leaked_rows(findings, lambda id: id != "t:1", [Own()]) == {"e:0"}


LOCK = {"recipe": {}, "data": {}, "packages": {"torch": "2.1", "trl": "0.9"}, "plugins": {}}


def test_a_lock_that_names_other_packages_has_not_changed():
    assert changes(LOCK, {**LOCK, "packages": {"torch": "2.1", "scipy": "1.15"}}) == []
    assert changes(LOCK, {**LOCK, "packages": {"torch": "2.2"}}) == ['packages: torch: "2.1" -> "2.2"']
