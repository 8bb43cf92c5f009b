"""Reward functions written for TRL, verl or verifiers."""

from __future__ import annotations

import ast
import asyncio
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import ftp
from ftp.errors import PluginError, did_you_mean
from ftp.files import file_digest
from ftp.packages import import_file

Style = Literal["trl", "verl", "verifiers"]
STYLES: Mapping[str, Style] = {"completions": "trl", "solution_str": "verl", "completion": "verifiers"}
"""The argument by which a signature is known."""
REFERENCE = ("answer", "solution", "ground_truth", "target", "reference")
"""The arguments that get the row's reference."""
GIVEN: Mapping[Style, tuple[str, ...]] = {
    "trl": ("prompts", "completions", *REFERENCE, "source", "id"),
    "verl": ("data_source", "solution_str", "ground_truth", "extra_info"),
    "verifiers": ("prompt", "completion", "answer", "state", "task", "info"),
}
"""The arguments that can be given in each signature."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function of a file, as its text has it."""

    name: str
    style: Style | None
    """None for one that is no reward function."""
    needs: tuple[str, ...]
    """Arguments without a default."""


class Function(ftp.Evaluator):
    """The score that a Python function gives, one with the signature of TRL, verl or verifiers.

    TRL: `f(prompts, completions, **columns)` returns a list of numbers, None for no score. verl: `f(data_source,
    solution_str, ground_truth, extra_info)` returns a number, or a dict with `score`. verifiers: any of `prompt`,
    `completion`, `answer`, `state`, `task`, `info`, by name; it may be async. A row's reference is given as `answer`,
    `solution`, `ground_truth`, `target` or `reference`.

    The file is imported, which runs it: FTP asks for consent, or takes `--trust`.
    """

    requires: ClassVar[tuple[str, ...]] = ("scipy",)

    file: ftp.FilePath
    """The Python file."""
    name: str | None = None
    """The function. Default: the only one in the file that has such a signature."""
    completions: Literal["messages", "text"] = "messages"
    """How prompts and completions are given in TRL's and verifiers' signature: as lists of messages, as both do for
    conversations, or as text."""
    higher_is_better: ClassVar[bool] = True

    def files(self) -> Sequence[Path]:
        return [Path(self.file)]

    def problems(self) -> list[str]:
        try:
            found = signatures(Path(self.file))
        except OSError as error:
            return [f"file: {self.file}: {error.strerror}"]
        except (SyntaxError, ValueError) as error:
            return [f"file: {self.file}: no Python file: {error}"]
        known = {one.name: one for one in found}
        if self.name is not None and self.name not in known:
            return [f"name: no function '{self.name}' in {self.file}{did_you_mean(self.name, known)}"]
        able = [one for one in found if one.style is not None]
        chosen = known[self.name] if self.name is not None else able[0] if len(able) == 1 else None
        if chosen is None and able:
            return [f"name: is missing; {self.file} has {', '.join(one.name for one in able)}"]
        if chosen is None or chosen.style is None:
            what = f"'{self.name}'" if self.name else f"no function of {self.file}"
            has = "hasn't" if self.name else "has"
            return [
                f"file: {what} {has} an argument `completions` (TRL), `solution_str` (verl) or `completion` (verifiers)"
            ]
        missing = [name for name in chosen.needs if name not in GIVEN[chosen.style]]
        if missing:
            given = ", ".join(GIVEN[chosen.style])
            return [f"file: '{chosen.name}' needs `{missing[0]}`, and what can be given is {given}"]
        return []

    def needs_consent(self) -> Sequence[str]:
        file = Path(self.file)
        return [f"run the Python file {file} (SHA-256 {file_digest(file)})"] if file.is_file() else []

    def needs_consent_in_recipe(self) -> Sequence[str]:
        return self.needs_consent()

    def scores(self, examples: Sequence[ftp.Example], answers: Sequence[str]) -> Sequence[ftp.Score]:
        style, function = self._loaded
        if style == "trl":
            return self._scores_of_trl(function, examples, answers)
        given = _verl if style == "verl" else self._verifiers
        return [_score(_awaited(_called(function, given(e, a)))) for e, a in zip(examples, answers, strict=True)]

    def _scores_of_trl(
        self, function: Callable[..., Any], examples: Sequence[ftp.Example], answers: Sequence[str]
    ) -> list[ftp.Score]:
        given: dict[str, list[Any]] = {
            "prompts": [self._turns(e) for e in examples],
            "completions": [self._completion(answer) for answer in answers],
            **{name: [e.reference for e in examples] for name in REFERENCE},
            "source": [e.source for e in examples],
            "id": [e.id for e in examples],
        }
        found = _awaited(_called(function, given))
        if not isinstance(found, Sequence) or len(found) != len(answers):
            raise TypeError(f"{function.__name__} returned {str(found)[:80]!r}, not a list of {len(answers)} numbers")
        return [_score(value) for value in found]

    def _verifiers(self, example: ftp.Example, answer: str) -> dict[str, Any]:
        prompt, completion = self._turns(example), self._completion(answer)
        own = {
            "prompt": prompt,
            "completion": completion,
            "answer": example.reference,
            "task": example.source,
            "info": {},
        }
        return {**own, "state": dict(own)}

    def _turns(self, example: ftp.Example) -> Any:
        if self.completions == "text":
            return example.prompt[-1].content if example.prompt else ""
        return [{"role": turn.role, "content": turn.content} for turn in example.prompt]

    def _completion(self, answer: str) -> Any:
        return answer if self.completions == "text" else [{"role": "assistant", "content": answer}]

    @cached_property
    def _loaded(self) -> tuple[Style, Callable[..., Any]]:
        file = Path(self.file).resolve()
        able = [one for one in signatures(file) if one.style is not None and self.name in (None, one.name)]
        [chosen] = able
        assert chosen.style is not None
        return chosen.style, getattr(_imported(file), chosen.name)


def signatures(file: Path) -> list[Signature]:
    """Return the public functions at the top of a file, without running it.

    Raises:
        SyntaxError: it is no Python file.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return [
        _signature(node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
    by_place = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    by_name = [argument.arg for argument in node.args.kwonlyargs]
    style = next((STYLES[name] for name in (*by_place, *by_name) if name in STYLES), None)
    needs = by_place[: len(by_place) - len(node.args.defaults)]
    needs += [name for name, default in zip(by_name, node.args.kw_defaults, strict=True) if default is None]
    return Signature(node.name, style, tuple(needs))


def _imported(file: Path) -> Any:
    """Import a file under a name of its own, so that pickle and dataclasses find its classes."""
    name = f"ftp_function_{file_digest(file)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        return import_file(file, name)
    except PluginError as error:
        raise PluginError(f"{file}: {error}") from None


def _called(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a function with those of the arguments that it takes."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return function(**given)
    return function(**{name: value for name, value in given.items() if name in parameters})


def _awaited(value: Any) -> Any:
    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value


def _verl(example: ftp.Example, answer: str) -> dict[str, Any]:
    extra = {"index": example.id, "split": "", "prompt": [turn.content for turn in example.prompt]}
    return {
        "data_source": example.source,
        "solution_str": answer,
        "ground_truth": example.reference,
        "extra_info": extra,
    }


def _score(value: Any) -> ftp.Score:
    """Return a function's value as a score; None is a missing one."""
    if isinstance(value, Mapping):
        value = value["score"]
    return ftp.Score(math.nan if value is None else float(value))
