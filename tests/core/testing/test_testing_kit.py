"""The kit for plugin authors: its fixtures, and what the conformance check lets through and what it doesn't."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ftp import plugins
from ftp.testing import Install, MakeAnswers, WriteRecipe, assert_component_ok
from ftp.testing.fixtures import write_tiny_model

pytest_plugins = ["pytester"]

EVALUATOR = '''
"""A plugin."""
import ftp

class Length(ftp.Evaluator):
    """Counts characters."""

    def score(self, example, answer):
        return float(len(answer))

@ftp.hookimpl
def ftp_evaluators():
    return {"length": Length}
'''


# --- ftp_install -----------------------------------------------------------------------------------------------------


def test_an_installed_plugin_is_discovered(ftp_install: Install) -> None:
    ftp_install("Acme.Length-Eval", EVALUATOR, version="1.2.3")
    found = {plugin.name: plugin for plugin in plugins.load().plugins}
    plugin = found["acme-length-eval:Acme.Length-Eval"]
    assert (plugin.version, plugin.error, plugin.offers) == ("1.2.3", None, [("evaluators", "length")])


def test_entry_points_and_group_can_be_given(ftp_install: Install) -> None:
    source = "import click\n\n@click.command()\ndef hello():\n    click.echo('Hello.')\n"
    ftp_install("acme-tools", source, entry_points={"acme-hello": "acme_tools:hello"}, group="ftp.commands")
    (entry,) = importlib.metadata.entry_points(group="ftp.commands", name="acme-hello")
    assert entry.load().name == "hello"
    assert entry.dist is not None and entry.dist.name == "acme-tools"


def test_the_record_is_true(ftp_install: Install) -> None:
    site = ftp_install("acme-length", EVALUATOR)
    files = {str(file): file for file in importlib.metadata.distribution("acme-length").files or []}
    assert sorted(files) == sorted(str(file.relative_to(site)) for file in site.rglob("*") if file.is_file())
    assert files["acme_length.py"].size == len(EVALUATOR)
    assert files["acme_length.py"].hash is not None and files["acme_length.py"].hash.mode == "sha256"


def test_a_module_or_a_package_is_copied_from_its_path(ftp_install: Install, tmp_path: Path) -> None:
    (tmp_path / "one_file.py").write_text(EVALUATOR)
    package = tmp_path / "acme_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from acme_package.inner.length import ftp_evaluators as ftp_evaluators\n")
    (package / "inner" / "length.py").write_text(EVALUATOR.replace('"length"', '"inner_length"'))
    ftp_install("one-file", tmp_path / "one_file.py")
    ftp_install("acme-package", package)
    assert {"length", "inner_length"} <= plugins.load().offers("evaluators").keys()


def test_a_newer_version_takes_the_place_of_the_older(ftp_install: Install) -> None:
    ftp_install("acme-length", EVALUATOR)
    assert "length" in plugins.load().offers("evaluators")
    ftp_install("acme-length", EVALUATOR.replace('"length"', '"longer"'), version="0.2")
    offers = plugins.load().offers("evaluators")
    assert "length" not in offers
    assert offers["longer"].plugin.version == "0.2"


def test_after_the_test_everything_is_as_it_was(pytester: pytest.Pytester) -> None:
    pytester.syspathinsert()
    pytester.makepyfile(acme_here="WHO = 'the first'")
    pytester.makepyfile(
        """
        import sys
        from importlib.metadata import entry_points

        import acme_here

        BEFORE = list(sys.path)

        def test_install(ftp_install):
            ftp_install("acme-length", "import acme_length_inner")
            ftp_install("acme-length-inner", "")
            ftp_install("acme-here", "WHO = 'the second'")
            import acme_here, acme_length
            assert acme_here.WHO == "the second"
            assert entry_points(group="ftp", name="acme-length")

        def test_nothing_is_left():
            assert sys.path == BEFORE
            assert not [name for name in sys.modules if name.startswith("acme_length")]
            assert sys.modules["acme_here"] is acme_here
            assert not entry_points(group="ftp", name="acme-length")
        """
    )
    pytester.runpytest_inprocess("-W", "error", "-p", "no:cacheprovider").assert_outcomes(passed=2)


# --- ftp_recipe ------------------------------------------------------------------------------------------------------


def test_keywords_change_the_recipe(ftp_recipe: WriteRecipe) -> None:
    file = ftp_recipe(
        name="other",
        adapter={"r": 8},
        model={"use": "acme_store", "model": "legal"},
        data={"validation": None, "evals": {"heldout": {"on_bad_row": "drop"}}},
        evaluate=None,
        answers={"max_new_tokens": 4},
    )
    written = yaml.safe_load(file.read_text())
    assert written["name"] == "other"
    assert written["adapter"] == {"use": "lora", "r": 8}
    assert written["model"] == {"use": "acme_store", "model": "legal"}
    assert "validation" not in written["data"] and "evaluate" not in written
    assert written["data"]["evals"]["heldout"]["path"] == "heldout.jsonl"
    assert written["data"]["evals"]["heldout"]["on_bad_row"] == "drop"
    assert written["answers"] == {"max_new_tokens": 4}
    assert yaml.safe_load(ftp_recipe().read_text())["name"] == "small"


# --- ftp_tiny_model --------------------------------------------------------------------------------------------------


def test_the_tiny_model_is_the_same_every_time(ftp_tiny_model: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(17)
    state = torch.get_rng_state()
    write_tiny_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    files = sorted(file.name for file in ftp_tiny_model.iterdir())
    assert files == sorted(file.name for file in tmp_path.iterdir())
    assert "model.safetensors" in files
    for name in files:
        assert (tmp_path / name).read_bytes() == (ftp_tiny_model / name).read_bytes(), name


def test_the_tiny_models_template_writes_the_bos_itself(ftp_tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ftp_tiny_model)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|bos|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 2


# --- ftp_answers -----------------------------------------------------------------------------------------------------


def test_answers_become_a_view(ftp_answers: MakeAnswers) -> None:
    view = ftp_answers([("2 + 2?", "It is 4.", "5", "4"), ("3 + 4?", "7", "", "It is 7.")], name="sums")
    assert view.name == "sums"
    assert [example.prompt[0].content for example in view.examples] == ["2 + 2?", "3 + 4?"]
    assert [example.reference for example in view.examples] == ["It is 4.", "7"]
    assert [example.id for example in view.examples] == ["sums.jsonl:1", "sums.jsonl:2"]
    assert [answer.text for answer in view.base_answers] == ["5", ""]
    assert [answer.tokens for answer in view.tuned_answers] == [1, 3]
    for base, tuned in zip(view.base_losses, view.tuned_losses, strict=True):
        assert base.tokens == tuned.tokens > 0
        assert 0 < tuned.nll < base.nll and math.isfinite(base.nll)


# --- assert_component_ok: what passes --------------------------------------------------------------------------------


def test_a_curator_may_mask_rows_and_move_them_to_validation(ftp_install: Install) -> None:
    source = '''
import dataclasses
import ftp

class Mask(ftp.Curator):
    """Masks a row of each part, and moves one."""

    def curate(self, corpus, ledger):
        moved, *train = corpus.train
        ledger.move(moved.id, "validation")
        parts = [train, [*corpus.validation, moved]]
        for rows in parts:
            ledger.mask(rows[-1].id, by=self.used_as, reason="masked: sums")
            masked = tuple(dataclasses.replace(turn, content="[SUM]") for turn in rows[-1].messages)
            rows[-1] = dataclasses.replace(rows[-1], messages=masked)
        return dataclasses.replace(corpus, train=parts[0], validation=parts[1])
'''
    ftp_install("acme-mask", source)
    assert_component_ok(importlib.import_module("acme_mask").Mask)


def test_options_that_are_read_from_elsewhere_in_the_module_count(ftp_install: Install) -> None:
    source = '''
import ftp

class Part(ftp.Evaluator):
    """A part."""

    words: int = 3
    """How many words."""

    def score(self, example, answer):
        return _limit(self) - len(answer)

class Whole(Part):
    """All of it."""

def _limit(options):
    return float(options.words)
'''
    ftp_install("acme-parts", source)
    parts = importlib.import_module("acme_parts")
    assert_component_ok(parts.Part)
    assert_component_ok(parts.Whole, words=5)


# --- assert_component_ok: what doesn't -------------------------------------------------------------------------------

HEAD = "from __future__ import annotations\nimport random\nimport dataclasses\nfrom pathlib import Path\nimport ftp\n"

EVALUATORS = {
    "has no docstring; it is the component's help.": """
class Bad(ftp.Evaluator):
    def score(self, example, answer):
        return 1.0
""",
    "the option 'words' has no docstring under it": '''
class Bad(ftp.Evaluator):
    """Bad."""
    words: int = 3
    def score(self, example, answer):
        return float(len(answer) < self.words)
''',
    "nothing reads the option 'words'; remove it, or use it (self.words).": '''
class Bad(ftp.Evaluator):
    """Bad."""
    words: int = 3
    """The words."""
    def score(self, example, answer):
        return 1.0
''',
    "it defines neither score nor evaluate.": '''
class Bad(ftp.Evaluator):
    """Bad."""
''',
    "score has to be callable as score(example, answer).": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def score(self, answer):
        return 1.0
''',
    "acme_bad imports torch at module level; import it inside the function that needs it.": '''
try:
    import torch.nn
except ImportError:
    torch = None

class Bad(ftp.Evaluator):
    """Bad."""
    def score(self, example, answer):
        return 1.0
''',
    "it imports transformers, which requires doesn't name.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def score(self, example, answer):
        from transformers import AutoTokenizer
        return 1.0
''',
    "requires names 'rouge-score', which can't be imported here; it takes import names.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    requires = ("rouge-score",)
    def score(self, example, answer):
        return 1.0
''',
    "requires is 'scipy'; it has to be a tuple of import names.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    requires = "scipy"
    def score(self, example, answer):
        return 1.0
''',
    "its options can be changed after it is made": '''
class Bad(ftp.Evaluator):
    """Bad."""
    model_config = {"frozen": False}
    def score(self, example, answer):
        return 1.0
''',
    "it takes options that it doesn't have": '''
class Bad(ftp.Evaluator):
    """Bad."""
    model_config = {"extra": "ignore"}
    def score(self, example, answer):
        return 1.0
''',
    "it has an option called 'use'": '''
class Bad(ftp.Evaluator):
    """Bad."""
    use: str = "x"
    """What."""
    def score(self, example, answer):
        return float(self.use == answer)
''',
    "takes is 'conversation'; it has to be a tuple": '''
class Bad(ftp.Evaluator):
    """Bad."""
    takes = "conversation"
    def score(self, example, answer):
        return 1.0
''',
    "can't be made with the options {}: words: Field required": '''
class Bad(ftp.Evaluator):
    """Bad."""
    words: int
    """The words."""
    def score(self, example, answer):
        return float(self.words)
''',
    "has other options after model_dump and model_validate.": '''
from typing import Annotated
from pydantic import BeforeValidator

class Bad(ftp.Evaluator):
    """Bad."""
    words: Annotated[int, BeforeValidator(lambda value: value + 1)] = 0
    """The words."""
    def score(self, example, answer):
        return float(self.words)
''',
    "can't be pickled": '''
from pydantic import PrivateAttr

class Bad(ftp.Evaluator):
    """Bad."""
    _count: object = PrivateAttr(default_factory=lambda: (lambda text: len(text)))
    def score(self, example, answer):
        return 1.0
''',
    "problems has to return a list of sentences; it returned 'none'.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def problems(self):
        return "none"
    def score(self, example, answer):
        return 1.0
''',
    "score returned None; it has to be a finite number": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def score(self, example, answer):
        len(answer)
''',
    "score returned nan; it has to be a finite number": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def score(self, example, answer):
        return float("nan")
''',
    "evaluate(EvalView(": '''
class Bad(ftp.Evaluator):
    """Divides by the length of the answer, which may be 0."""
    def score(self, example, answer):
        return 1 / len(answer)
''',
    "evaluate returns something else the second time": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def score(self, example, answer):
        return random.random()
''',
    "evaluate gave score the figures nan and nan, which are not finite.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        metric = ftp.Metric("score", float("nan"), float("nan"), None, True, (1.0,) * 5, (1.0,) * 5)
        return ftp.Evaluation((metric,), n=5)
''',
    "evaluate gave score 4 and 4 scores; one for each of the 5 examples is needed, or none.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        base = [float(len(answer.text)) for answer in view.base_answers if answer.text]
        return ftp.Evaluation((ftp.paired_metric("score", base, base),), n=4)
''',
    "evaluate says that n is 0, and there are 5 examples.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        return ftp.Evaluation((ftp.paired_metric("score", [1.0] * 5, [1.0] * 5),))
''',
    "evaluate returned tuple, not an ftp.Evaluation.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        return ()
''',
    "score doesn't keep the scores in the order of the examples.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        base = sorted(float(len(answer.text)) for answer in view.base_answers)
        tuned = sorted(float(len(answer.text)) for answer in view.tuned_answers)
        return ftp.Evaluation((ftp.paired_metric("score", base, tuned),), n=5)
''',
    "score doesn't treat both models alike: swapped, they get other scores.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        base = [float(len(answer.text)) for answer in view.base_answers]
        return ftp.Evaluation((ftp.paired_metric("score", base, base),), n=5)
''',
    "evaluate names its metrics by what the answers are; they have to be the same always.": '''
class Bad(ftp.Evaluator):
    """Bad."""
    def evaluate(self, view):
        return ftp.Evaluation((ftp.paired_metric(view.base_answers[0].text, [1.0] * 5, [1.0] * 5),), n=5)
''',
    "argument 2 is longer than argument 1": '''
class Bad(ftp.Evaluator):
    """Says that it reads no answers, and does."""
    reads_answers = False
    def evaluate(self, view):
        pairs = list(zip(view.base_answers, view.examples, strict=True))
        return ftp.Evaluation((ftp.paired_metric("score", [1.0 for _ in pairs], [1.0 for _ in pairs]),), n=len(pairs))
''',
}

FORMATTERS = {
    "format({}) raised KeyError": '''
class Bad(ftp.Formatter):
    """Bad."""
    def format(self, row):
        return ftp.Example((ftp.Message("user", row["question"]), ftp.Message("assistant", row["answer"])))
''',
    "format({'answer': None}) raised AttributeError": '''
class Bad(ftp.Formatter):
    """Bad."""
    def format(self, row):
        if "answer" not in row:
            raise ftp.RowError("answer", "missing")
        return ftp.Example((ftp.Message("user", "Go on."), ftp.Message("assistant", row["answer"].strip())))
''',
    "format({'reply': None}) returned an example; a row that can't be used is an ftp.RowError.": '''
class Bad(ftp.Formatter):
    """Bad."""
    column: str = "reply"
    """Column of the answer."""
    def format(self, row):
        if self.column not in row:
            raise ftp.RowError(self.column, "missing")
        return ftp.Example((ftp.Message("user", "Go on."), ftp.Message("assistant", str(row[self.column]))))
''',
    "format({'answer': 3}) put something that is not text into an example.": '''
class Bad(ftp.Formatter):
    """Bad."""
    def format(self, row):
        if not row.get("answer"):
            raise ftp.RowError("answer", "missing")
        return ftp.Example((ftp.Message("user", "Go on."), ftp.Message("assistant", row["answer"])))
''',
    "format({}) returned an example; a row that can't be used is an ftp.RowError.": '''
class Bad(ftp.Formatter):
    """Bad."""
    def format(self, row):
        return ftp.Example()
''',
    "it does not define format.": '''
class Bad(ftp.Formatter):
    """Bad."""
''',
    "makes is 'chat'; it has to be one of conversation, preference, feedback, text": '''
class Bad(ftp.Formatter):
    """Bad."""
    makes = "chat"
    def format(self, row):
        raise ftp.RowError("", "bad")
''',
}

CURATORS = {
    "curate removed train-domain.jsonl:1 from train without recording it": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        return dataclasses.replace(corpus, train=corpus.train[1:])
''',
    "curate recorded in the ledger that train-domain.jsonl:1 is dropped and left it in train.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        ledger.drop(corpus.train[0].id, by=self.used_as, reason="bad")
        return corpus
''',
    "curate recorded in the ledger that train-domain.jsonl:1 is dropped, but not by whom and why.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        ledger.drop(corpus.train[0].id, by="", reason="")
        return dataclasses.replace(corpus, train=corpus.train[1:])
''',
    "curate put a row into train twice.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        return dataclasses.replace(corpus, train=corpus.train.take([*range(len(corpus.train)), 0]))
''',
    "curate put a row into train that was not there.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        return dataclasses.replace(corpus, train=corpus.evals["heldout"])
''',
    "curate changed a row of train without recording it: ledger.mask(id, by=…, reason=…).": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        rows = [dataclasses.replace(row, role="replay") for row in corpus.train]
        return dataclasses.replace(corpus, train=rows)
''',
    "curate recorded in the ledger that train-domain.jsonl:1 is moved to validation and left it in train.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        ledger.move(corpus.train[0].id, "validation")
        return corpus
''',
    "curate removed train-domain.jsonl:1 from train without recording it: ledger.drop": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        ledger.move(corpus.train[0].id, "validation")
        return dataclasses.replace(corpus, train=corpus.train[1:])
''',
    "curate put a row into validation that was not there.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        rows = [*corpus.validation, corpus.train[0]]
        return dataclasses.replace(corpus, train=corpus.train[1:], validation=rows)
''',
    "curate changed the eval sets; they are what the result is measured on.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        return dataclasses.replace(corpus, evals={"heldout": corpus.evals["heldout"][1:]})
''',
    "curate returns different rows the second time; draw with a seed that is an option.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        order = random.sample(range(len(corpus.train)), len(corpus.train))
        return dataclasses.replace(corpus, train=corpus.train.take(order))
''',
    "curate returned NoneType, not an ftp.Corpus.": '''
class Bad(ftp.Curator):
    """Bad."""
    def curate(self, corpus, ledger):
        pass
''',
}

OTHERS = {
    "prepare raised TypeError (": '''
class Bad(ftp.Adapter):
    """Bad."""
    def prepare(self, request):
        sorted(request.linear_modules)
        return request
    def apply(self, loaded):
        return loaded
''',
    "prepare has to return the request for the same model, changed or not.": '''
class Bad(ftp.Adapter):
    """Bad."""
    def prepare(self, request):
        return dataclasses.replace(request, model="another/model")
    def apply(self, loaded):
        return loaded
''',
    "apply has to be callable as apply(loaded).": '''
class Bad(ftp.Adapter):
    """Bad."""
    def apply(self):
        pass
''',
    "load has to be callable as load(request).": '''
class Bad(ftp.Loader):
    """Bad."""
    def load(self, request, device):
        pass
''',
    "it does not define train.": '''
class Bad(ftp.Trainer):
    """Bad."""
''',
    "report has to be callable as report(run).": '''
class Bad(ftp.Reporter):
    """Bad."""
    def report(self):
        return Path()
''',
    "a component is a subclass of exactly one of ftp.Formatter,": '''
class Bad:
    """Bad."""
''',
}


@pytest.mark.parametrize(
    ("sentence", "source"),
    [
        pytest.param(*case, id=case[0][:60])
        for table in (EVALUATORS, FORMATTERS, CURATORS, OTHERS)
        for case in table.items()
    ],
)
def test_a_bad_component_is_told_what_is_wrong(ftp_install: Install, sentence: str, source: str) -> None:
    ftp_install("acme-bad", HEAD + source)
    with pytest.raises(AssertionError) as raised:
        assert_component_ok(importlib.import_module("acme_bad").Bad)
    assert str(raised.value).startswith("Bad: ")
    assert sentence in str(raised.value)


def test_all_that_shows_in_the_class_is_told_at_once(ftp_install: Install) -> None:
    source = """
import torch

class Bad(ftp.Evaluator):
    words: int = 3
"""
    ftp_install("acme-bad", HEAD + source)
    with pytest.raises(AssertionError) as raised:
        assert_component_ok(importlib.import_module("acme_bad").Bad)
    assert str(raised.value).splitlines() == [
        "Bad: it defines neither score nor evaluate.",
        "Bad: the class has no docstring; it is the component's help.",
        "Bad: the option 'words' has no docstring under it; it is the option's help.",
        "Bad: nothing reads the option 'words'; remove it, or use it (self.words).",
        "Bad: acme_bad imports torch at module level; import it inside the function that needs it.",
    ]


def test_a_heavy_import_in_the_packages_own_init_is_found(ftp_install: Install, tmp_path: Path) -> None:
    package = tmp_path / "acme_bad"
    package.mkdir()
    (package / "__init__.py").write_text("import datasets\n")
    (package / "length.py").write_text(EVALUATOR)
    ftp_install("acme-bad", package)
    with pytest.raises(AssertionError, match="Length: acme_bad imports datasets at module level"):
        assert_component_ok(importlib.import_module("acme_bad.length").Length)


def test_an_import_for_type_checkers_alone_is_fine(ftp_install: Install) -> None:
    ftp_install("acme-ok", f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n{EVALUATOR}")
    assert_component_ok(importlib.import_module("acme_ok").Length)


def test_a_sample_row_is_tried_with_every_place_in_it_spoiled(ftp_install: Install) -> None:
    source = '''
class Bad(ftp.Formatter):
    """Checks the list and not what is in it."""
    def format(self, row):
        turns = row.get("turns")
        if not turns or not isinstance(turns, list):
            raise ftp.RowError("turns", "a list is needed")
        return ftp.Example((ftp.Message("user", "Go on."), ftp.Message("assistant", turns[-1]["said"])))
'''
    ftp_install("acme-bad", HEAD + source)
    bad = importlib.import_module("acme_bad").Bad
    with pytest.raises(AssertionError, match=r"format\(\{'turns': 3\}\)|raised TypeError|raised KeyError"):
        assert_component_ok(bad, {"turns": [{"said": "Yes."}]})
    with pytest.raises(
        AssertionError, match=r"format\(\{'turns': \[\{'said': ''\}\]\}\) made an example with an empty"
    ):
        assert_component_ok(bad, {"turns": [{"said": ""}]})


def test_a_row_that_makes_another_conversation_is_found(ftp_install: Install) -> None:
    source = '''
class Bad(ftp.Formatter):
    """Writes the answer into the wrong column."""
    def format(self, row):
        for column in ("question", "answer"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise ftp.RowError(column, "text is needed")
        return ftp.Example((ftp.Message("user", row["question"]), ftp.Message("assistant", row["answer"])))
    def row(self, example):
        return {"question": example.reference, "answer": example.messages[0].content}
'''
    ftp_install("acme-bad", HEAD + source)
    with pytest.raises(AssertionError, match=r"row returned .* makes another conversation of it"):
        assert_component_ok(importlib.import_module("acme_bad").Bad, {"question": "2 + 2", "answer": "4"})


def test_samples_for_other_kinds_are_refused(toys: ModuleType) -> None:
    with pytest.raises(TypeError, match="samples are for formatters, evaluators and engines, and Blend is none"):
        assert_component_ok(toys.Blend, {}, replay="5%")


def test_an_instance_is_not_a_class(toys: ModuleType) -> None:
    with pytest.raises(AssertionError, match="is not a class; give the component's class, not an instance"):
        assert_component_ok(toys.Loss())


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_importing_the_kit_loads_nothing_that_pytest_does_not() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import ftp.testing; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded <= {"ftp", *sys.stdlib_module_names}, loaded
