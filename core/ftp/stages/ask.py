"""Ask a model the prompts of eval sets, and write its answers and losses down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftp.components import Engine, EngineWork
from ftp.data.examples import Examples
from ftp.errors import ComponentError
from ftp.guard import call, described
from ftp.lm.rendering import Tokens, stop_ids
from ftp.lm.tokens import tokenise
from ftp.records.answers import write_answers
from ftp.results import answers_file
from ftp.runs.directory import RunDirectory
from ftp.stages import answer_cache
from ftp.types import Answer, Example, LoadedModel, LoadedTokenizer, TokenLoss


@dataclass(frozen=True)
class Question:
    """An eval set to be answered by one model."""

    who: str
    """`base`, `tuned`, or `ftp.results.contestant(name)`."""
    name: str
    """The eval set."""
    examples: Examples
    open_end: bool = False
    """Whether the end of running text is left out of its loss."""


@dataclass(frozen=True)
class Asking:
    """Asks models, and keeps what they say in the run directory and in the cache of answers."""

    directory: RunDirectory
    stage: Callable[[str, int | None], Callable[[int], None]]
    """Called with the title and the units of a stage; returns a function to call with the units done."""
    note: Callable[[str], object]
    emit: Callable[..., object] = lambda event, **values: None
    """Called with the name and the values of an event."""

    def loaded_model(
        self, question: Question, loaded: LoadedModel, trained: Path | None, engine: Engine | None
    ) -> None:
        """Ask a model in memory.

        Args:
            trained: the directory of the trained weights that are in the model.
            engine: what answers; None where nothing reads answers.
        """
        from ftp.lm.torch_losses import token_losses

        examples = question.examples
        key = answer_cache.key(loaded, trained, examples, engine, question.open_end)
        if self._recalled(question, key):
            return
        stops = stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
        rows: Sequence[Tokens] = tokenise(LoadedTokenizer(loaded.tokenizer, stops), examples)
        if question.open_end:
            rows = [row if example.messages else _open(row) for row, example in zip(rows, examples, strict=True)]
        advance = self.stage(f"Loss of {_named(question.who)} on {question.name}", len(rows))
        losses = token_losses(loaded, rows, advance)
        self._keep(question, key, self._answers(question, engine, loaded) if engine else [], losses)

    def own_model(self, question: Question, engine: Engine) -> None:
        """Ask an engine with a model of its own."""
        examples = list(question.examples)
        key = answer_cache.own_key(engine, examples)
        if self._recalled(question, key):
            return
        answers = self._answers(question, engine, None)
        losses = call(Sequence | None, engine.losses, examples) or ()
        if losses and len(losses) != len(examples):
            raise ComponentError(f"{described(engine)}: losses returned {len(losses)} for {len(examples)} examples")
        self._keep(question, key, answers, losses)

    def _answers(self, question: Question, engine: Engine, loaded: LoadedModel | None) -> list[Answer]:
        advance = self.stage(f"Answers of {_named(question.who)} to {question.name}", len(question.examples))
        work = EngineWork(loaded, self.directory.path, question.who, question.name, advance, self.note, self.emit)
        return answered(engine.at_work(work), list(question.examples))

    def _recalled(self, question: Question, key: str | None) -> bool:
        known = answer_cache.recall(key)
        if known is None:
            return False
        advance = self.stage(
            f"Answers of {_named(question.who)} to {question.name}, from the cache", len(question.examples)
        )
        advance(len(question.examples))
        answers, losses = known
        samples = max(1, len(answers) // max(1, len(question.examples)))
        write_answers(self._file(question), question.examples, answers, losses[::samples])
        return True

    def _keep(
        self, question: Question, key: str | None, answers: Sequence[Answer], losses: Sequence[TokenLoss]
    ) -> None:
        write_answers(self._file(question), question.examples, answers, losses)
        answer_cache.keep(key, self._file(question))

    def _file(self, question: Question) -> Path:
        return answers_file(self.directory, question.who, question.name)


def answered(engine: Engine, prompts: Sequence[Example]) -> list[Answer]:
    """Have an engine at work answer prompts, and time it.

    Raises:
        ComponentError: it returned something else than the answers that it was asked for.
    """
    options, began = engine.options, time.perf_counter()
    found = list(call(Sequence, engine.answer, prompts, options))
    seconds = time.perf_counter() - began
    if wrong := [answer for answer in found if not isinstance(answer, Answer)]:
        raise ComponentError(f"{described(engine)}: answer returned {type(wrong[0]).__name__}, not ftp.Answer")
    if len(found) != len(prompts) * options.samples:
        what = f"{len(found)} answers to {len(prompts)} prompts"
        more = f", of {options.samples} samples each" if options.samples > 1 else ""
        raise ComponentError(f"{described(engine)}: answer returned {what}{more}")
    return [_timed(answer, seconds / len(found)) for answer in found]


def _timed(answer: Answer, seconds: float) -> Answer:
    own = answer.seconds is not None and math.isfinite(answer.seconds)
    return Answer(answer.text, answer.tokens, answer.stopped, answer.seconds if own else seconds, answer.cost)


def _named(who: str) -> str:
    _, dot, contestant = who.partition(".")
    return contestant if dot else f"the {who} model"


def _open(row: Tokens) -> Tokens:
    """Remove the end-of-sequence token that was added to running text."""
    return Tokens(row.input_ids[:-1], row.trained[:-1])
