"""Toy components, which do as little as a recipe needs."""

from typing import ClassVar, Literal

from pydantic import Field

import ftp


class Pairs(ftp.Formatter):
    """A question and an answer."""

    instruction: str = "instruction"
    """Column of the question."""
    response: str = "response"
    """Column of the answer."""
    system: str = ""
    """A turn before them."""

    def format(self, row):
        for column in (self.instruction, self.response):
            if column not in row:
                raise ftp.RowError(column, "missing column")
            if not row[column]:
                raise ftp.RowError(column, "empty")
        system = (ftp.Message("system", self.system),) if self.system else ()
        turns = (ftp.Message("user", row[self.instruction]), ftp.Message("assistant", row[self.response]))
        return ftp.Example((*system, *turns))


class Lines(ftp.Formatter):
    """Running text."""

    makes: ClassVar = "text"

    def format(self, row):
        return ftp.Example(text=row["text"])


class Blend(ftp.Curator):
    """Decides on replay rows and leaves them as they are."""

    handles: ClassVar = ("replay",)

    replay: ftp.Share | None = None
    """Their share."""

    def cross_problems(self, recipe):
        asked = self.replay is not None and not any(source.role == "replay" for _, source in recipe.data.sources())
        return ["mixes replay rows and no source has `role: replay`"] if asked else []

    def curate(self, corpus, ledger):
        return corpus


class Store(ftp.Loader):
    """Names a model and has none."""

    id: str
    """Its name."""
    device: str = "cpu"
    """Where it would go."""

    def load(self, request):
        raise ftp.ModelError("there is no model in a toy")


class Part(ftp.Adapter):
    """Trains a part."""

    rank: int = Field(8, ge=1)
    """Its size."""
    bias: bool = False
    """Whether biases train."""
    targets: Literal["all"] | list[str] = "all"
    """The layers."""

    def apply(self, loaded):
        return loaded


class Whole(ftp.Adapter):
    """Trains everything."""

    layers: int = 12
    """From the top."""

    def apply(self, loaded):
        return loaded


class Steps(ftp.Trainer):
    """Trains conversations and text by name only."""

    takes: ClassVar = ("conversation", "text")

    epochs: float = 1
    """Times that every row is seen."""
    learning_rate: float = 1e-4
    """The peak."""
    max_length: int = 512
    """Tokens of a row."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls."""

    def train(self, job):
        raise ftp.ModelError("a toy trains nothing")


class Echo(ftp.Engine):
    """Repeats the question."""

    by_default: ClassVar = True

    batch_size: int = Field(32, ge=1)
    """Questions at once."""

    def answer(self, prompts, options):
        return [ftp.Answer(example.prompt[-1].content, 1, True) for example in prompts for _ in range(options.samples)]


class Same(ftp.Evaluator):
    """Whether the answer is the reference."""

    pattern: str | None = None
    """A word for it."""

    def score(self, example, answer):
        return float(answer == example.reference)


class Loss(ftp.Evaluator):
    """Losses, without an answer."""

    takes: ClassVar = ("conversation", "text")
    reads_answers: ClassVar = False

    def evaluate(self, view):
        return ftp.Evaluation((), n=len(view.examples))


class Plain(ftp.Reporter):
    """A file that says that there was a run."""

    def report(self, run):
        file = run.directory / "report.txt"
        file.write_text(f"{run.name}\n")
        return file


@ftp.hookimpl
def ftp_formatters():
    return {"pairs": Pairs, "lines": Lines}


@ftp.hookimpl
def ftp_curators():
    return {"blend": Blend}


@ftp.hookimpl
def ftp_loaders():
    return {"store": Store}


@ftp.hookimpl
def ftp_adapters():
    return {"part": Part, "whole": Whole}


@ftp.hookimpl
def ftp_trainers():
    return {"steps": Steps}


@ftp.hookimpl
def ftp_engines():
    return {"echo": Echo}


@ftp.hookimpl
def ftp_evaluators():
    return {"same": Same, "loss": Loss}


@ftp.hookimpl
def ftp_reporters():
    return {"plain": Plain}
