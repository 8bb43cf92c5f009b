"""Component and one small abstract base per kind. A component is its own block of options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from pydantic import PrivateAttr

from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.options import Options
from ftp.stats.paired import clusters_of, paired_metric
from ftp.types import (
    Answer,
    Evaluation,
    EvalView,
    Example,
    FinishedRun,
    Kind,
    LoadedModel,
    LoadedTokenizer,
    ModelRequest,
    RollBack,
    Score,
    Stop,
    TrainResult,
    Warn,
)


class Component(Options, ABC):
    """A part that a recipe names with `use:`. Its fields are its options; its docstring is its help."""

    requires: ClassVar[tuple[str, ...]] = ()
    """The packages it imports beyond the base install, by import name."""

    _used_as: str = PrivateAttr(default="")

    @property
    def used_as(self) -> str:
        """The name it has in the recipe."""
        return self._used_as or type(self).__name__

    def named(self, name: str) -> Self:
        """Return the same component under the name that a recipe uses for it."""
        component = self.model_copy()
        component._used_as = name
        return component

    def anew(self) -> Self:
        """Return a component with the same options and name, and none of the state that this one has gathered."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        fresh = type(self).model_construct(_fields_set=self.model_fields_set, **values)
        return cast(Self, fresh.named(self._used_as))

    def problems(self) -> list[str]:
        """What is wrong with these options on this machine, as far as a look without heavy libraries can tell."""
        return []


class Formatter(Component):
    """Turns a row of a source into an example."""

    makes: ClassVar[Kind] = "conversation"
    """The kind of example it makes."""

    @abstractmethod
    def format(self, row: Mapping[str, Any]) -> Example:
        """Return the row as an Example. Raise `ftp.RowError(column, what)` for a row that can't be used."""

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Formatter, str]:
        """Look at the first rows of a source; return the formatter to use in place of this one, and why in words.

        Only for formatters that choose by the data. Raise `ftp.DataError` when the rows don't decide it.
        """
        return self, ""


class Curator(Component):
    """Chooses, drops or reorders rows before training."""

    handles: ClassVar[tuple[str, ...]] = ()
    """The roles of rows, beyond `domain`, that it decides on: a recipe with such rows needs a curator for them."""
    splits: ClassVar[bool] = False
    """Whether it carves the validation rows; the recipe then gives no `validation:`."""
    guards_evals: ClassVar[bool] = False
    """Whether a recipe that has eval sets and doesn't name it gets it all the same, as its first curator."""
    leaks: ClassVar[tuple[str, ...]] = ("leak",)
    """Which of its findings (the `what` of `ledger.find`) say that a training row contains the eval row `other`."""

    @abstractmethod
    def curate(self, corpus: Corpus, ledger: Ledger) -> Corpus:
        """Return the corpus with rows taken out, moved to validation, masked or reordered.

        Every such row is told to the ledger: `ledger.drop`, `ledger.move`, `ledger.mask`.
        """


class Loader(Component):
    """Brings a base model and its tokenizer into memory."""

    def describe(self) -> ModelRequest:
        """Say what would be loaded, reading configuration files only and no weights."""
        return ModelRequest(model=type(self).__name__)

    @abstractmethod
    def load(self, request: ModelRequest) -> LoadedModel:
        """Load the weights as `request` asks: dtype, quantization. Raise `ftp.ModelError` where that can't be."""


class LoadsTokenizer(ABC):
    """Mix into a loader that can load its tokenizer without weights. A loader that defines the method is one, too."""

    @abstractmethod
    def load_tokenizer(self) -> LoadedTokenizer | None:
        """Return the tokenizer, so that rows can be tokenised and counted before any weight is loaded.

        None where these options don't allow it; tokens are then counted only when the model is there.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return _defines(other, "load_tokenizer") if cls is LoadsTokenizer else NotImplemented


class Adapter(Component):
    """Decides which weights train."""

    learning_rates: ClassVar[tuple[float, float] | None] = None
    """Where the peak learning rate usually lies, or None where that isn't known. A rate outside is warned of."""

    def update_scale(self) -> tuple[float, str]:
        """How many times as far as usual the same learning rate moves the weights with these options, and in words
        what makes it so; 1 and no words where nothing does."""
        return 1.0, ""

    def prepare(self, request: ModelRequest) -> ModelRequest:
        """Say how the model has to be loaded; raise `ftp.ModelError` when the pair can't work. Loads nothing."""
        return request

    @abstractmethod
    def apply(self, loaded: LoadedModel) -> LoadedModel:
        """Return the model with its trainable weights in place and all others frozen.

        Notes that are added to the model's are shown to the user.
        """

    def save(self, loaded: LoadedModel, directory: Path) -> None:
        """Write the trained weights into `directory`, as safetensors, in a form that the base model as it is loaded
        can take them back from."""
        loaded.model.save_pretrained(directory, safe_serialization=True)

    def can_restore(self, directory: Path) -> bool:
        """Whether `directory` holds weights that `save` wrote for `restore` to read, and not a whole model."""
        return (directory / "adapter_config.json").is_file()

    def restore(self, loaded: LoadedModel, directory: Path) -> LoadedModel | None:
        """Return the model with the trained weights saved in `directory`, to go on after an interruption.

        None means that this adapter can't; training is then done again.
        """
        return None


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything a trainer needs."""

    model: LoadedModel
    corpus: Corpus
    ledger: Ledger
    directory: Path
    """For checkpoints and caches. The trainer owns it."""
    seed: int
    emit: Callable[..., Stop | RollBack | None]
    """One line in events.jsonl, shown to the user and to the recipe's watchers; returns what they ask for, never
    a `Warn`.

    Watchers, reports and the terminal read `emit("plan", steps=…)`, `emit("metric", step=…, loss=…)` after every
    optimizer step, `emit("validation", step=…, loss=…)` and `emit("best", step=…)`. `emit("resume", step=…)` and
    `emit("rollback", step=…)` say that what came after that step is done again. Any other name and values are kept as
    they are."""
    score: Callable[[str, int], float] | None = None
    """`score(metric, rows)` is what an evaluator of the recipe makes of the model as it is now, on its answers to so
    many validation rows: `EVALUATOR` or `EVALUATOR.METRIC`. Higher is better: losses and their like come negated."""


class Trainer(Component):
    """Trains the weights that the adapter left trainable."""

    takes: ClassVar[tuple[Kind, ...]] = ("conversation",)
    """The kinds of example it can train on; a recipe with others is refused."""

    def tokenise(
        self, corpus: Corpus, tokenizer: LoadedTokenizer, ledger: Ledger, progress: Callable[[int], None]
    ) -> None:
        """Tokenise the rows as training will, and tell the ledger of each.

        Called before a model is loaded; raise `ftp.DataError` for rows that can't be trained on.

        Args:
            progress: called with the number of rows done since its last call.
        """

    @abstractmethod
    def train(self, job: TrainingJob) -> TrainResult:
        """Train `job.model` on `job.corpus.train`, watching `job.corpus.validation`; return the best state."""

    def peak_rate(self) -> tuple[float, int] | None:
        """The highest learning rate of the training and the rows of one optimizer step, or None when there is none."""
        return None

    def plan(self, job: TrainingJob) -> Mapping[str, Any] | None:
        """What training would take: `steps`, `seconds`, `memory_mb`, … by name, or None when this trainer can't tell.

        It may take a few steps of `job` to measure; the weights are afterwards what they were.
        """
        return None

    def range_test(self, job: TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any] | None:
        """Train for a few steps while the learning rate rises geometrically from `low` to `high`, or None when this
        trainer can't. The weights are afterwards what they were.

        Returns:
            `rates`, `losses`, `smoothed`: lists with an entry a step; `start`: the loss before; `suggestion`: a rate
            or None; `reason`: why, in words; `diverged`: whether it ended early.
        """
        return None


class Watcher(Component):
    """Sees every event of a training run as it happens, and may end it or send it back."""

    by_default: ClassVar[bool] = False
    """Whether a recipe without a `watch:` block has it."""

    @abstractmethod
    def see(self, event: Mapping[str, Any]) -> Stop | RollBack | Warn | None:
        """Take note of an event; return `ftp.Stop`, `ftp.RollBack` or `ftp.Warn` with a reason, or None.

        `event["event"]` is its name: `start` (name, id, directory), `plan`, `metric`, `validation`, `resume`,
        `rollback`, `best`, `score`, `end`, … as `ftp.TrainingJob.emit` lists them. After `rollback` (step) the steps
        that follow are done again. `watcher` (by, asks, reason, step) is what a watcher has answered; an answer to
        that is not heard.
        """

    def replay(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of an earlier process when a run goes on, up to the step that it goes on from."""
        self.see(event)


class Evaluator(Component):
    """Compares the base and the tuned model on an eval set. Define `score`, or `evaluate` for anything richer."""

    takes: ClassVar[tuple[Kind, ...]] = ("conversation",)
    """The kinds of example it can score; a recipe with others is refused."""
    reads_answers: ClassVar[bool] = True
    """Whether it needs generated answers; an evaluator of losses alone does not."""
    higher_is_better: ClassVar[bool] = True
    """Which way `score` counts."""

    def check(self, examples: Sequence[Example]) -> None:
        """Raise `ftp.DataError` for an eval set that can't be scored. Called before any model is loaded."""

    def files(self) -> Sequence[Path]:
        """The files that its figures depend on, beyond the recipe. Other bytes in one of them make another run."""
        return ()

    @property
    def on_its_own(self) -> bool:
        """Whether it is evaluated on what it brings or measures, and not on the eval sets of the recipe.

        One for which that depends on its options overrides this.
        """
        return isinstance(self, BringsEvals | MeasuresModel)

    def score(self, example: Example, answer: str) -> Score | float:
        """Score one answer to one example."""
        raise NotImplementedError

    def evaluate(self, view: EvalView) -> Evaluation:
        """Score every answer of both models and pair them, example by example. A score of NaN is none."""

        def scores(answers: list[Answer]) -> list[Score]:
            found = [self.score(example, answer.text) for example, answer in zip(view.examples, answers, strict=True)]
            return [score if isinstance(score, Score) else Score(float(score)) for score in found]

        base, tuned = scores(list(view.base_answers)), scores(list(view.tuned_answers))
        metric = paired_metric(
            "score",
            [s.value for s in base],
            [s.value for s in tuned],
            higher_is_better=self.higher_is_better,
            base_reasons=[s.reason for s in base],
            tuned_reasons=[s.reason for s in tuned],
            clusters=clusters_of(view.examples),
        )
        return Evaluation(metrics=(metric,), n=len(view.examples))


class BringsEvals(ABC):
    """Mix into an evaluator that brings eval sets. An evaluator that defines the method is one, too."""

    @abstractmethod
    def own_evals(self) -> Mapping[str, Sequence[Example]]:
        """Return the eval sets, by name; a name is that of a file, and of no other eval set with other examples.

        Each example names its `source`; ids are given by the pipeline. Running text is taken for a piece of a longer
        one: its end is not scored. Curators see these sets like the recipe's own, so what is in them is kept out of
        training, and both models are asked about them, but only the evaluators that bring a set see what they say.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return _defines(other, "own_evals") if cls is BringsEvals else NotImplemented


class MeasuresModel(ABC):
    """Mix into an evaluator that measures a model in memory. An evaluator that defines the method is one, too."""

    @abstractmethod
    def measure(self, model: LoadedModel) -> Mapping[str, Any]:
        """Measure a model and return the figures, as values that JSON knows.

        Called once for the base and once for the tuned model; `evaluate` gets both, as `view.base_measured` and
        `view.tuned_measured`. The model is in eval mode and has to be left as it was.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return _defines(other, "measure") if cls is MeasuresModel else NotImplemented


def _defines(cls: type, method: str) -> Any:
    """The answer of a `__subclasshook__` that asks for one method, as in collections.abc."""
    return any(method in vars(base) and vars(base)[method] is not None for base in cls.__mro__) or NotImplemented


class Reporter(Component):
    """Writes a finished run down for people."""

    @abstractmethod
    def report(self, run: FinishedRun) -> Path:
        """Write the report into `run.directory` and return its path."""


KINDS: dict[str, type[Component]] = {
    "formatters": Formatter,
    "curators": Curator,
    "loaders": Loader,
    "adapters": Adapter,
    "trainers": Trainer,
    "watchers": Watcher,
    "evaluators": Evaluator,
    "reporters": Reporter,
}
"""The kinds of component, by the name of their hook without its `ftp_`."""


def unfinished(component: type[Component]) -> str | None:
    """Say which method a component class still has to define, or None when it is complete."""
    missing = sorted(getattr(component, "__abstractmethods__", ()))
    if missing:
        return f"does not define {', '.join(missing)}"
    if (
        issubclass(component, Evaluator)
        and component.score is Evaluator.score
        and component.evaluate is Evaluator.evaluate
    ):
        return "defines neither score nor evaluate"
    return None


def kind_of(component: Component) -> str:
    """The kind of a component, as KINDS names it."""
    return next(kind for kind, base in KINDS.items() if isinstance(component, base))
