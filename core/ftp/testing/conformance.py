"""What FTP relies on in every component, checked without a model: `assert_component_ok`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

if TYPE_CHECKING:
    from ftp.components import Adapter, Component, Curator, Evaluator, Formatter, Watcher
    from ftp.data.examples import Corpus
    from ftp.data.ledger import Ledger
    from ftp.types import Evaluation, EvalView

HEAVY = frozenset(("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "openai"))
"""Libraries that take seconds to import, so that no module may import them before a run needs them."""


def assert_component_ok(cls: type[Component], /, *samples: Any, **options: Any) -> None:
    """Check that a component does what FTP relies on, as far as that shows without a model.

    Args:
        cls: the class that the plugin offers.
        samples: for a formatter rows that it must be able to use, for an evaluator views (see `ftp_answers`) to take
            in place of a built-in one about sums.
        options: the options to make it with, as a recipe would give them.

    Raises:
        AssertionError: what is wrong, one sentence a line.
    """
    kind = _kind(cls)
    if samples and kind not in ("formatters", "evaluators"):
        raise TypeError(f"samples are for formatters and evaluators, and {cls.__name__} is neither")
    problems = [*_unsound_class(cls), *_undocumented(cls), *_unread_options(cls), *_wrong_imports(cls)]
    if problems:
        _fail(cls, *problems)
    component: Any = _made(cls, options)
    if kind == "formatters":
        _check_formatter(component, samples)
    elif kind == "curators":
        _check_curator(component)
    elif kind == "evaluators":
        _check_evaluator(component, samples or [answers_view(_SUMS)])
    elif kind == "adapters":
        _check_adapter(component)
    elif kind == "watchers":
        _check_watcher(component)


def _fail(cls: type, *problems: str) -> NoReturn:
    raise AssertionError("\n".join(f"{cls.__name__}: {problem}" for problem in problems))


def _kind(cls: object) -> str:
    from ftp.components import KINDS

    if not inspect.isclass(cls):
        raise AssertionError(f"{cls!r} is not a class; give the component's class, not an instance.")
    kinds = [kind for kind, base in KINDS.items() if issubclass(cls, base)]
    if len(kinds) != 1:
        bases = ", ".join(f"ftp.{base.__name__}" for base in KINDS.values())
        _fail(cls, f"a component is a subclass of exactly one of {bases}; this one of {len(kinds)}.")
    return kinds[0]


def _own_classes(cls: type[Component]) -> list[type[Component]]:
    """The class and the classes it inherits from, without FTP's bases."""
    from ftp.components import Component

    return [of for of in cls.__mro__ if issubclass(of, Component) and of.__module__ != "ftp.components"]


def _source(module: str) -> ast.Module | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return ast.parse(Path(file).read_bytes()) if file and file.endswith(".py") else None


def _sources(cls: type[Component]) -> list[ast.Module]:
    """The modules that the class and its parents are written in."""
    trees = [_source(module) for module in dict.fromkeys(of.__module__ for of in _own_classes(cls))]
    return [tree for tree in trees if tree is not None]


# What shows without making one.


def _unsound_class(cls: type[Component]) -> Iterator[str]:
    from ftp.components import Evaluator, Formatter, Trainer, unfinished
    from ftp.types import Kind

    missing = unfinished(cls)
    if missing:
        yield f"it {missing}."
    if not cls.model_config.get("frozen"):
        yield "its options can be changed after it is made; leave model_config's frozen on."
    if cls.model_config.get("extra") != "forbid":
        yield "it takes options that it doesn't have; leave model_config's extra at 'forbid'."
    if "use" in cls.model_fields:
        yield "it has an option called 'use', which in a recipe names the component itself."
    if issubclass(cls, Formatter) and cls.makes not in get_args(Kind):
        yield f"makes is {cls.makes!r}; it has to be one of {', '.join(get_args(Kind))}."
    if issubclass(cls, Evaluator | Trainer) and not (
        isinstance(cls.takes, tuple) and cls.takes and set(cls.takes) <= set(get_args(Kind))
    ):
        yield f"takes is {cls.takes!r}; it has to be a tuple of some of {', '.join(get_args(Kind))}."
    for base in cls.__mro__:
        if base.__module__ != "ftp.components":
            continue
        for name, method in vars(base).items():
            if not inspect.isfunction(method) or name.startswith("_"):
                continue
            arguments = list(inspect.signature(method).parameters)
            try:
                inspect.signature(getattr(cls, name)).bind(*arguments)
            except (TypeError, ValueError):
                yield f"{name} has to be callable as {name}({', '.join(arguments[1:])})."


def _undocumented(cls: type[Component]) -> Iterator[str]:
    if not (cls.__doc__ or "").strip():
        yield "the class has no docstring; it is the component's help."
    for name, field in cls.model_fields.items():
        if not (field.description or "").strip():
            yield f"the option '{name}' has no docstring under it; it is the option's help."


def _unread_options(cls: type[Component]) -> Iterator[str]:
    trees = _sources(cls)
    if not trees:
        yield f"the source of its module, {cls.__module__}, can't be read."
        return
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for name in cls.model_fields:
        if name not in read:
            yield f"nothing reads the option '{name}'; take it out, or use it (self.{name})."


def _wrong_imports(cls: type[Component]) -> Iterator[str]:
    modules = [of.__module__ for of in _own_classes(cls)]
    packages = [".".join(module.split(".")[:depth]) for module in modules for depth in range(1, module.count(".") + 2)]
    for module in dict.fromkeys(packages):
        tree = _source(module)
        for package in sorted(HEAVY.intersection(_imported(tree, on_import=True)) if tree else ()):
            yield f"{module} imports {package} at module level; import it inside the function that needs it."
    if not isinstance(cls.requires, tuple):
        yield f"requires is {cls.requires!r}; it has to be a tuple of import names."
        return
    for package in cls.requires:
        if not package.isidentifier() or importlib.util.find_spec(package) is None:
            yield f"requires names '{package}', which can't be imported here; it takes import names."
    names = {of.__name__ for of in _own_classes(cls)}
    bodies = [
        node for tree in _sources(cls) for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names
    ]
    used = {package for body in bodies for package in _imported(body, on_import=False)}
    for package in sorted(used & HEAVY - set(cls.requires)):
        yield f"it imports {package}, which requires doesn't name."


def _imported(node: ast.AST, *, on_import: bool) -> Iterator[str]:
    """The top-level packages that a piece of source imports; with `on_import` only those its own import needs."""
    for child in ast.iter_child_nodes(node):
        if on_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield str(child.module).split(".")[0]
        yield from _imported(child, on_import=on_import)


# What shows when one is made.


def _made(cls: type[Component], options: Mapping[str, Any]) -> Component:
    from pydantic import ValidationError

    try:
        component = cls.model_validate(options)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())
        _fail(cls, f"can't be made with the options {dict(options)}: {found}; give options to assert_component_ok.")
    try:
        cls.model_validate({**options, "no_such_option": 1})
    except ValidationError:
        pass
    else:
        _fail(cls, "takes an option that it doesn't have.")
    dumped = component.model_dump()
    if _attempt(cls, cls.model_validate, dumped).model_dump() != dumped:
        _fail(cls, "has other options after model_dump and model_validate.")
    if _attempt(cls, cls.model_validate_json, component.model_dump_json(), strict=True).model_dump() != dumped:
        _fail(cls, "has other options after model_dump_json and model_validate_json, as a recipe's blocks go.")
    try:
        copy = _pickled(component)
    except Exception as error:
        _fail(
            cls,
            f"can't be pickled ({error}); define the class at the top level of a module, and keep its state simple.",
        )
    if copy.model_dump() != dumped:
        _fail(cls, "has other options after pickling.")
    problems = _attempt(cls, component.problems)
    if not isinstance(problems, list) or not all(isinstance(problem, str) for problem in problems):
        _fail(cls, f"problems has to return a list of sentences; it returned {problems!r}.")
    return component


def _pickled(component: Any) -> Any:
    import pickle

    return pickle.loads(pickle.dumps(component))


def _attempt(cls: type[Component], call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        return call(*arguments, **named)
    except Exception as error:  # whatever it is, it is what the author has to read
        shown = ", ".join(map(_short, arguments))
        what = f"{call.__name__}({shown}) raised {type(error).__name__}: {error}"
        raise AssertionError(f"{cls.__name__}: {what}") from error


# Formatters.


def _check_formatter(formatter: Formatter, samples: Sequence[Mapping[str, Any]]) -> None:
    cls = type(formatter)
    for row in samples:
        example = _attempt(cls, formatter.format, row)
        fault = _fault(example, formatter)
        if fault:
            _fail(cls, f"format({_short(row)}) {fault}.")
        if formatter.format(row) != example:
            _fail(cls, f"format({_short(row)}) makes another example the second time.")
    columns = sorted(_column_names(formatter) | {str(key) for row in samples for key in row})
    wrong: tuple[Any, ...] = (None, [], 3)
    for value in wrong:
        rows = [{column: value} for column in columns] + [dict.fromkeys(columns, value)]
        for row in ({}, *rows):
            # A number may well be what a column holds; nothing and a list of nothing can't be an answer.
            _check_bad_row(formatter, row, may_work=value == 3 and bool(row))
    for sample in samples:
        for row in _spoiled(dict(sample)):
            _check_bad_row(formatter, row, may_work=True)


def _check_bad_row(formatter: Formatter, row: Mapping[str, Any], may_work: bool) -> None:
    from ftp.errors import RowError
    from ftp.types import Example

    cls, call = type(formatter), f"format({_short(row)})"
    try:
        example = formatter.format(row)
    except RowError as error:
        if not str(error).strip():
            _fail(cls, f"{call} raised an ftp.RowError without a word.")
        return
    except Exception as error:
        what = f"{call} raised {type(error).__name__} ({error}); a row that can't be used is an ftp.RowError."
        raise AssertionError(f"{cls.__name__}: {what}") from error
    if not may_work:
        _fail(cls, f"{call} returned an example; a row that can't be used is an ftp.RowError.")
    if not isinstance(example, Example):
        _fail(cls, f"{call} returned {type(example).__name__}, not an ftp.Example.")
    contents = [message.content for message in example.messages] or [example.text]
    if not all(isinstance(content, str) for content in contents):
        _fail(cls, f"{call} put something that is not text into an example.")


def _fault(example: Any, formatter: Formatter) -> str | None:
    from ftp.types import Example

    if not isinstance(example, Example):
        return f"returned {type(example).__name__}, not an ftp.Example"
    if example.kind != formatter.makes:
        return f"made a {example.kind} example, and the class says makes = '{formatter.makes}'"
    if example.messages and example.messages[-1].role != "assistant":
        return f"made a conversation that ends with the {example.messages[-1].role}'s turn, not the assistant's"
    calls = example.messages and example.messages[-1].tool_calls
    return None if example.reference.strip() or calls else "made an example with an empty answer"


def _column_names(formatter: Formatter) -> set[str]:
    """What the formatter may look for in a row: texts among its options and in its source that look like a name."""
    texts = {value for value in formatter.model_dump().values() if isinstance(value, str) and value}
    for tree in _sources(type(formatter)):
        texts |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {text for text in texts if re.fullmatch(r"\w[\w -]{0,40}", text)}


def _spoiled(value: Any) -> Iterator[Any]:
    """Every variant of a row with one place in it missing or wrong."""
    if isinstance(value, dict):
        for key in value:
            yield {other: item for other, item in value.items() if other != key}
            for worse in (None, 3, "", [], {}, *_spoiled(value[key])):
                yield {**value, key: worse}
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value[:index] + value[index + 1 :]
            for worse in (None, 3, "", [], {}, *_spoiled(value[index])):
                yield [*value[:index], worse, *value[index + 1 :]]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


# Curators.


def _check_curator(curator: Curator) -> None:
    cls = type(curator)
    orders = []
    for _ in range(2):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            before, ledger = _corpus(Path(directory), curator.handles)
            after = _attempt(cls, curator.curate, before, ledger)
            fault = _curated_wrongly(before, after, ledger) or _ledger_fault(before, after, ledger, Path(directory))
            if fault:
                _fail(cls, f"curate {fault}.")
            orders.append([example.id for example in after.train])
    if orders[0] != orders[1]:
        _fail(cls, "curate chooses other rows the second time; draw with a seed that is an option.")


def _corpus(directory: Path, roles: Sequence[str]) -> tuple[Corpus, Ledger]:
    """Twelve rows of each role, one of them twice and one also in the eval set; 3 rows to watch and 3 held out."""
    from ftp.data.examples import Corpus, Examples, write_examples
    from ftp.data.ledger import Ledger
    from ftp.types import Example, Message

    ledger = Ledger()

    def part(name: str, role: str, numbers: Sequence[int]) -> list[Example]:
        examples = []
        for line, number in enumerate(numbers, 1):
            id = ledger.add(f"{name}-{role}.jsonl", line, "eval:heldout" if name == "heldout" else name, role)
            turns = (Message("user", f"Double {number}."), Message("assistant", f"{number} doubled is {2 * number}."))
            examples.append(Example(turns, id=id, source=f"{name}-{role}.jsonl", role=role))
        return examples

    def written(name: str, examples: Sequence[Example]) -> Examples:
        return write_examples(directory / f"{name}.arrow", examples)

    train = part("train", "domain", [*range(10, 20), 10, 50])
    for count, role in enumerate((role for role in roles if role != "domain"), 1):
        train += part("train", role, range(100 * count, 100 * count + 12))
    watched = written("validation", part("validation", "domain", range(40, 43)))
    heldout = written("heldout", part("heldout", "domain", range(50, 53)))
    return Corpus(written("train", train), watched, {"heldout": heldout}), ledger


def _curated_wrongly(before: Corpus, after: Any, ledger: Ledger) -> str | None:
    from ftp.data.examples import Corpus

    if not isinstance(after, Corpus):
        return f"returned {type(after).__name__}, not an ftp.Corpus"
    if {name: list(rows) for name, rows in after.evals.items()} != {n: list(rows) for n, rows in before.evals.items()}:
        return "changed the eval sets; they are what the result is measured on"
    known = {"train": {example.id: example for example in before.train}, "validation": {}}
    known["validation"] = {example.id: example for example in before.validation}
    for id, example in known["train"].items():
        if ledger.row(id)["split"] == "validation":
            known["validation"][id] = example
    for name in ("train", "validation"):
        rows = list(getattr(after, name))
        if len({row.id for row in rows}) < len(rows):
            return f"put a row into {name} twice"
        if any(row.id not in known[name] for row in rows):
            return f"put a row into {name} that was not there"
        if any(row != known[name][row.id] and ledger.row(row.id)["fate"] != "masked" for row in rows):
            return f"changed a row of {name} and didn't tell the ledger: ledger.mask(id, by=…, reason=…)"
    return None


def _ledger_fault(before: Corpus, after: Corpus, ledger: Ledger, directory: Path) -> str | None:
    import pyarrow.parquet

    ledger.write(directory / "ledger.parquet")
    entries = {entry["id"]: entry for entry in pyarrow.parquet.read_table(directory / "ledger.parquet").to_pylist()}
    kept = {name: {example.id for example in getattr(after, name)} for name in ("train", "validation")}
    for name in kept:
        for example in getattr(before, name):
            entry = entries[example.id]
            split, dropped = entry["split"], entry["fate"] == "dropped"
            if split != name and example.id in kept[name]:
                return f"told the ledger that {example.id} is moved to {split} and left it in {name}"
            if example.id not in kept.get(split, ()) and not dropped:
                return f"took {example.id} out of {name} and didn't tell the ledger: ledger.drop(id, by=…, reason=…)"
            if example.id in kept[name] and dropped:
                return f"told the ledger that {example.id} is dropped and left it in {name}"
            if dropped and not (entry["by"] and entry["reason"]):
                return f"told the ledger that {example.id} is dropped, but not by whom and why"
    return None


# Evaluators.

_SUMS = [
    ("What is 2 + 2?", "4", "It is 5.", "4"),
    ("What is 3 + 4?", "The answer is 7.", "", "The answer is 7."),
    ("Name the number after 9.", "Ten, or 10.", "It's ten.", "Ten, or 10: « dix », 十."),
    ("What is 10 - 3?", "7", "7", "I don't know."),
    ("Write 12 in words.", "Twelve", "twelve", "The number is written\nTwelve"),
]


def _check_evaluator(evaluator: Evaluator, views: Sequence[EvalView]) -> None:
    from ftp.components import Evaluator
    from ftp.types import Example, Score

    cls = type(evaluator)
    if evaluator.measures:  # what it measures takes a model
        return
    for view in views:
        if "conversation" not in cls.takes:
            view = dataclasses.replace(view, examples=[Example(text=e.reference, id=e.id) for e in view.examples])
        _attempt(cls, evaluator.check, view.examples)
        if cls.score is not Evaluator.score:
            score = _attempt(cls, evaluator.score, view.examples[0], view.base_answers[0].text)
            if not _finite(score.value if isinstance(score, Score) else score):
                _fail(cls, f"score returned {score!r}; it has to be a finite number, or an ftp.Score of one.")
        if not cls.reads_answers:
            view = dataclasses.replace(view, base_answers=[], tuned_answers=[])
        found = _evaluated(evaluator, view)
        if _evaluated(evaluator, view) != found or _evaluated(_pickled(evaluator), view) != found:
            _fail(cls, "evaluate finds something else the second time; the same answers have to get the same scores.")
        _check_pairing(evaluator, view, found)


def _evaluated(evaluator: Evaluator, view: EvalView) -> Evaluation:
    from ftp.types import Evaluation

    found = _attempt(type(evaluator), evaluator.evaluate, view)
    if not isinstance(found, Evaluation):
        _fail(type(evaluator), f"evaluate returned {type(found).__name__}, not an ftp.Evaluation.")
    fault = _evaluation_fault(found, len(view.examples))
    if fault:
        _fail(type(evaluator), f"evaluate {fault}.")
    return found


def _evaluation_fault(found: Evaluation, examples: int) -> str | None:
    if not found.metrics:
        return "found no metric"
    names = [metric.name for metric in found.metrics]
    if not all(names) or len(set(names)) < len(names):
        return f"named its metrics {names}; each needs a name of its own"
    if not 0 < found.n <= examples:
        return f"says that n is {found.n}, and there are {examples} examples"
    if not any(metric.base_scores for metric in found.metrics):
        return "gave no metric with a score for each example"
    for metric in found.metrics:
        if not (_finite(metric.base) and _finite(metric.tuned)):
            return f"gave {metric.name} the figures {metric.base!r} and {metric.tuned!r}, which are not finite"
        if {len(metric.base_scores), len(metric.tuned_scores)} not in ({0}, {examples}):
            counts = f"{len(metric.base_scores)} and {len(metric.tuned_scores)}"
            return f"gave {metric.name} {counts} scores; one for each of the {examples} examples is needed, or none"
        if not all(map(_finite, (*metric.base_scores, *metric.tuned_scores))):
            return f"gave {metric.name} a score that is not a finite number"
    return None


def _check_pairing(evaluator: Evaluator, view: EvalView, found: Evaluation) -> None:
    """Scores follow their example and their model: turned round or swapped, they are the same ones elsewhere."""
    turned = dataclasses.replace(
        view,
        examples=view.examples[::-1],
        base_answers=view.base_answers[::-1],
        tuned_answers=view.tuned_answers[::-1],
        base_losses=view.base_losses[::-1],
        tuned_losses=view.tuned_losses[::-1],
    )
    swapped = dataclasses.replace(
        view,
        base_answers=view.tuned_answers,
        tuned_answers=view.base_answers,
        base_losses=view.tuned_losses,
        tuned_losses=view.base_losses,
    )
    again = [_evaluated(evaluator, other).metrics for other in (turned, swapped)]
    if any([metric.name for metric in metrics] != [metric.name for metric in found.metrics] for metrics in again):
        _fail(type(evaluator), "evaluate names its metrics by what the answers are; they have to be the same always.")
    for metric, backwards, crossed in zip(found.metrics, *again, strict=True):
        if (backwards.base_scores, backwards.tuned_scores) != (metric.base_scores[::-1], metric.tuned_scores[::-1]):
            _fail(type(evaluator), f"{metric.name} doesn't keep the scores in the order of the examples.")
        if (crossed.base_scores, crossed.tuned_scores) != (metric.tuned_scores, metric.base_scores):
            _fail(type(evaluator), f"{metric.name} doesn't treat both models alike: swapped, they get other scores.")


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# Adapters.


def _check_adapter(adapter: Adapter) -> None:
    from ftp.errors import ModelError
    from ftp.types import ModelRequest

    layers = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    for request in (
        ModelRequest("example/model", linear_modules=layers),
        ModelRequest("example/model", dtype="float32"),
        ModelRequest("example/model", already_quantized="gptq", linear_modules=layers),
    ):
        try:
            prepared = adapter.prepare(request)
        except ModelError:
            continue
        except Exception as error:
            what = f"prepare raised {type(error).__name__} ({error}); a pair that can't work is an ftp.ModelError."
            raise AssertionError(f"{type(adapter).__name__}: {what}") from error
        if not isinstance(prepared, ModelRequest) or prepared.model != request.model:
            _fail(type(adapter), "prepare has to return the request for the same model, changed or not.")
        if adapter.prepare(request) != prepared:
            _fail(type(adapter), "prepare asks for something else the second time.")


# Watchers.


def _check_watcher(watcher: Watcher) -> None:
    """A short run, once in one piece and once interrupted: the answers have to be the same."""
    plan: dict[str, Any] = {"event": "plan", "steps": 40, "rows": 80, "tokens_per_epoch": 900, "best_by": "loss"}
    before = [_validation(0), *map(_metric, range(1, 11)), _validation(10), {"event": "something new", "value": [1]}]
    after: list[dict[str, Any]] = [*map(_metric, range(11, 31)), _validation(20), _metric(31, loss=math.nan)]
    after += [{"event": "watcher", "by": "other", "asks": "stop", "reason": "enough", "step": 31}]
    after += [{"event": "rollback", "step": 20, "factor": 0.5}, _metric(21, grad_norm=math.inf), _validation(30)]
    after += [{"event": "best", "step": 20, "loss": 1.5}, {"event": "note", "text": "A note."}]
    after += [{"event": "score", "evaluator": "loss", "evals": "heldout", "metric": "nll", "base": 2.0, "tuned": 1.0}]
    after += [{"event": "end"}]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        starts = [{"event": "start", "name": "run", "id": f"run-{n}", "directory": f"{directory}/{n}"} for n in "12"]
        whole, resumed = _pickled(watcher), _pickled(watcher)
        for event in (starts[0], plan, *before):
            _seen(whole, event)
        answers = [_seen(whole, event) for event in after]
        for event in (starts[1], plan):
            _seen(resumed, event)
        for event in (starts[1], plan, *before):
            _attempt(type(watcher), resumed.replay, event)
        _seen(resumed, {"event": "resume", "step": 10})
        if [_seen(resumed, event) for event in after] != answers:
            _fail(type(watcher), "answers otherwise after replay than in a run that was not interrupted.")


def _metric(step: int, **values: float) -> dict[str, Any]:
    usual = {"epoch": step / 20, "loss": 2 - step / 40, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens": 45 * step}
    speed = {"seconds": 2.0 * step, "tokens_per_second": 22.5, "memory_mb": 900.0}
    return {"event": "metric", "step": step, **usual, **speed, **values}


def _validation(step: int) -> dict[str, Any]:
    loss = 2.1 - step / 50
    by_source = {"a.jsonl": loss + 0.1, "b.jsonl": loss - 0.1}
    return {"event": "validation", "step": step, "epoch": step / 20, "loss": loss, "by_source": by_source}


def _seen(watcher: Watcher, event: Mapping[str, Any]) -> Any:
    from ftp.types import RollBack, Stop, Warn

    answer = _attempt(type(watcher), watcher.see, event)
    call = f"see({event['event']})"
    if not isinstance(answer, Stop | RollBack | Warn | None):
        _fail(type(watcher), f"{call} returned {answer!r}; it has to be ftp.Stop, ftp.RollBack, ftp.Warn or None.")
    if answer is not None and not (isinstance(answer.reason, str) and answer.reason.strip()):
        _fail(type(watcher), f"{call} answered without a reason.")
    if isinstance(answer, RollBack) and not 0 < answer.factor <= 1:
        _fail(type(watcher), f"{call} asks for {answer.factor} times the rate; it has to be above 0 and at most 1.")
    return answer


def answers_view(rows: Sequence[tuple[str, str, str, str]], *, name: str = "heldout") -> EvalView:
    from ftp.types import Answer, EvalView, Example, Message, TokenLoss

    examples, losses = [], []
    for number, (prompt, reference, _, _) in enumerate(rows, 1):
        messages = (Message("user", prompt), Message("assistant", reference))
        examples.append(Example(messages, id=f"{name}.jsonl:{number}", source=f"{name}.jsonl"))
        tokens = len(reference.split()) + 1
        losses.append(TokenLoss(tokens * (2.0 + 0.1 * (number % 5)), tokens))
    return EvalView(
        name,
        examples,
        [Answer(base, len(base.split()), stopped=True) for _, _, base, _ in rows],
        [Answer(tuned, len(tuned.split()), stopped=True) for _, _, _, tuned in rows],
        losses,
        [TokenLoss(loss.nll * 0.75, loss.tokens) for loss in losses],
    )
