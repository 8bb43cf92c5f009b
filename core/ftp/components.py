"""Component and one small abstract base per kind. A component is its own block of options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import Field, PrivateAttr

from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.options import PLAIN_NAME, AnswerOptions, Decoding, Options, Proof
from ftp.stats.clusters import clusters_of
from ftp.stats.paired import paired_metric
from ftp.types import (
    Answer,
    Evaluation,
    EvalView,
    Example,
    Exported,
    FinishedRun,
    Kind,
    LoadedModel,
    LoadedTokenizer,
    Metric,
    ModelRequest,
    RollBack,
    Score,
    Stop,
    TokenLoss,
    TrainResult,
    Warn,
    Weights,
)


class Component(Options, ABC):
    """A part of a run that a recipe names with `use:`. Its fields are its options; its docstring is its help."""

    requires: ClassVar[tuple[str, ...]] = ()
    """The packages that it needs beyond the base install, by import name."""

    _used_as: str = PrivateAttr(default="")

    @property
    def used_as(self) -> str:
        """Name of the component in the recipe."""
        return self._used_as or type(self).__name__

    def named(self, name: str) -> Self:
        """Return the same component under the name that the recipe uses for it."""
        component = self.model_copy()
        component._used_as = name
        return component

    def anew(self) -> Self:
        """Return a component with the same options and name and no accumulated state."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        fresh = type(self).model_construct(_fields_set=self.model_fields_set, **values)
        return cast(Self, fresh.named(self._used_as))

    def problems(self) -> list[str]:
        """List what is wrong with these options on this machine, as far as can be told without heavy libraries."""
        return []

    def cross_problems(self, recipe: Any) -> list[str]:
        """Return what is wrong with these options in this recipe, for what depends on its other blocks.

        Args:
            recipe: an `ftp.recipe.Recipe`, whole and validated.

        Returns:
            A sentence for each problem, as `problems` does; one that begins with `OPTION: ` has that option's place.
        """
        return []

    def warnings(self, recipe: Any) -> list[str]:
        """Return what is allowed in this recipe and worth a second look, as `cross_problems` does what is wrong."""
        return []

    def needs_consent(self) -> Sequence[str]:
        """List what these options have run, loaded or sent that the recipe of a stranger's run must not decide alone.

        Each entry is what happens, as in "It would …": `run the code that comes with the model org/name`, `send
        prompts and answers to https://…, with the key in $VARIABLE`. The user of the machine is asked about each,
        unless the run was made there. Name every address and every variable of the environment that an option sets.
        """
        return ()

    def needs_consent_in_recipe(self) -> Sequence[str]:
        """List what of `needs_consent` the user is asked about even where the recipe is the user's own: the unusual."""
        return ()


class Formatter(Component):
    """Turns a row of a source into an example."""

    makes: ClassVar[Kind] = "conversation"
    """The kind of example that it makes."""

    _others: tuple[Formatter, ...] = PrivateAttr(default=())

    @abstractmethod
    def format(self, row: Mapping[str, Any]) -> Example:
        """Return the row as an `ftp.Example`. Raise `ftp.RowError(column, what)` for a row that can't be used."""

    def row(self, example: Example) -> Mapping[str, Any] | None:
        """Return a row that `format` makes this example from, or None where it makes it from none.

        For commands that write rows, such as `/save` of `ftp chat`, which compare what `format` makes of it.
        """
        return None

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Formatter, str]:
        """Look at the first rows of a source; return the formatter to use instead of this one, and the reason in words.

        For formatters that choose by the data, among `others` for example. Raise `ftp.DataError` when the rows don't
        settle the choice.
        """
        return self, ""

    @classmethod
    def chooses_by_data(cls) -> bool:
        """Return whether it is replaced by the formatter that its `settle` returns."""
        return cls.settle is not Formatter.settle

    @property
    def others(self) -> tuple[Formatter, ...]:
        """The installed formatters that need no options and choose nothing by the data, in the order of their names.

        Known to a formatter that chooses by the data, when a recipe has made it.
        """
        return self._others

    def among(self, others: Sequence[Formatter]) -> Self:
        """Return the same formatter with these `others`."""
        formatter = self.model_copy()
        formatter._others = tuple(others)
        return formatter


class Curator(Component):
    """Chooses, drops or reorders rows before training."""

    handles: ClassVar[tuple[str, ...]] = ()
    """The roles of rows, besides `domain`, that it decides on: a recipe with such rows needs a curator for them."""
    splits: ClassVar[bool] = False
    """Whether it makes the validation split; the recipe then has no `validation:`."""
    guards_evals: ClassVar[bool] = False
    """Whether a recipe with eval sets that doesn't name it uses it anyway, as its first curator."""
    leaks: ClassVar[tuple[str, ...]] = ("leak",)
    """Which of its findings (the `what` of `ledger.find`) mean that a training row contains the eval row `other`."""

    @abstractmethod
    def curate(self, corpus: Corpus, ledger: Ledger) -> Corpus:
        """Return the corpus with rows removed, moved to validation, masked or reordered.

        Record every such row in the ledger: `ledger.drop`, `ledger.move`, `ledger.mask`.
        """


class Loader(Component):
    """Loads a base model and its tokenizer into memory."""

    def describe(self) -> ModelRequest:
        """Describe the model that would be loaded, from configuration files only; read no weights."""
        return ModelRequest(model=type(self).__name__)

    def files(self) -> Sequence[Path]:
        """Return the files it reads besides those of the fingerprint. If one of them changes, it is another run."""
        return ()

    def fingerprint(self) -> str:
        """Identify the files that would be loaded, by their content; empty where that can't be told before the load.

        A run with another fingerprint is another run. Asked for at the beginning of every one, so it has to be quick.
        """
        return ""

    def lineage(self) -> Mapping[str, Any]:
        """Return which earlier run the model is from, for the lock and the reports; empty for one from elsewhere.

        Returns:
            `run` (its id), `name`, `lock` (SHA-256 of its lock), `fingerprint`, `base` (name of its base model), and
            `parent`, the same of the run that it was made from in turn.
        """
        return {}

    @abstractmethod
    def load(self, request: ModelRequest) -> LoadedModel:
        """Load the weights as `request` asks (dtype, quantization). Raise `ftp.ModelError` where that is impossible."""


class LoadsTokenizer(ABC):
    """Mix-in for a loader that can load its tokenizer without weights. A loader that defines the method counts, too."""

    @abstractmethod
    def load_tokenizer(self) -> LoadedTokenizer | None:
        """Return the tokenizer, so that rows can be tokenised and counted before any weights are loaded.

        Return None where these options don't allow it; tokens are then counted only once the model is loaded.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return _defines(other, "load_tokenizer") if cls is LoadsTokenizer else NotImplemented


class Adapter(Component):
    """Decides which weights train."""

    saves_whole_model: ClassVar[bool] = False
    """Whether `save` writes all weights, and not a part that goes on the base model."""
    learning_rates: ClassVar[tuple[float, float] | None] = None
    """The usual range of peak learning rates, or None where it isn't known. `ftp check` warns of a rate outside it."""

    def update_scale(self) -> tuple[float, str]:
        """Return the factor by which these options scale the effect of the learning rate, and the reason in words.

        With a factor of 2 the same rate moves the weights twice as far as usual. Return 1 and an empty string where the
        options change nothing.
        """
        return 1.0, ""

    def prepare(self, request: ModelRequest) -> ModelRequest:
        """Return the request changed to what this adapter needs. Loads nothing.

        Raise `ftp.ModelError` when the model and the adapter can't work together.
        """
        return request

    @abstractmethod
    def apply(self, loaded: LoadedModel) -> LoadedModel:
        """Return the model with its trainable weights in place and all others frozen.

        Notes added to the model's notes are shown to the user.
        """

    def save(self, loaded: LoadedModel, directory: Path) -> None:
        """Write the trained weights into `directory` as safetensors, so that they can be loaded onto the base model."""
        loaded.model.save_pretrained(directory, safe_serialization=True)

    def can_restore(self, directory: Path) -> bool:
        """Return whether `directory` holds weights that `save` wrote and `restore` can read, not a whole model."""
        return type(self).restore is not Adapter.restore and not (directory / "config.json").is_file()

    def restore(self, loaded: LoadedModel, directory: Path) -> LoadedModel | None:
        """Return the model with the trained weights saved in `directory`, to resume after an interruption.

        Return None where this adapter can't; the training is then repeated.
        """
        return None


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything a trainer needs."""

    model: LoadedModel
    corpus: Corpus
    ledger: Ledger
    directory: Path
    """For checkpoints and caches. Belongs to the trainer."""
    seed: int
    emit: Callable[..., Stop | RollBack | None]
    """Append a line to events.jsonl and pass it to the terminal and to the watchers; return what the watchers ask for,
    never a `Warn`.

    Watchers, reports and the terminal read `emit("plan", steps=…)`, `emit("metric", step=…, loss=…)` after every
    optimizer step, `emit("validation", step=…, loss=…)` and `emit("best", step=…)`. `emit("resume", step=…)` and
    `emit("rollback", step=…)` mean that the steps after that one are repeated. Events with other names and values are
    recorded unchanged.
    """
    score: Callable[[str, int], float] | None = None
    """`score(metric, rows)` scores the model in its current state with an evaluator of the recipe, on its answers to
    the given number of validation rows. `metric` is `EVALUATOR` or `EVALUATOR.METRIC`. Higher is better: metrics such
    as losses are negated."""


class Trainer(Component):
    """Trains the weights that the adapter left trainable."""

    takes: ClassVar[tuple[Kind, ...]] = ("conversation",)
    """The kinds of example that it can train on; a recipe with other kinds is refused."""

    def tokenise(
        self, corpus: Corpus, tokenizer: LoadedTokenizer, ledger: Ledger, progress: Callable[[int], None]
    ) -> None:
        """Tokenise the rows as training will, and record each of them in the ledger.

        Called before a model is loaded; raise `ftp.DataError` for rows that can't be trained on.

        Args:
            progress: called with the number of rows done since its last call.
        """

    @abstractmethod
    def train(self, job: TrainingJob) -> TrainResult:
        """Train `job.model` on `job.corpus.train`, validate on `job.corpus.validation`, and return the best state."""

    def peak_rate(self) -> tuple[float, int] | None:
        """Return the highest learning rate of the training and the rows of one optimizer step, or None without them."""
        return None

    def plan(self, job: TrainingJob) -> Mapping[str, Any] | None:
        """Estimate the cost of training: `steps`, `seconds`, `memory_mb`, … by name. Return None if unsupported.

        It may take a few steps of `job` to measure, and must restore the weights afterwards.
        """
        return None

    def range_test(self, job: TrainingJob, low: float, high: float, steps: int) -> Mapping[str, Any] | None:
        """Run a learning-rate range test: the rate rises geometrically from `low` to `high` over a few steps.

        The weights are restored afterwards. Return None if this trainer doesn't support it.

        Returns:
            `rates`, `losses`, `smoothed`: lists with an entry per step; `start`: the loss before; `suggestion`: a rate
            or None; `reason`: why, in words; `diverged`: whether the test ended early.
        """
        return None


class Watcher(Component):
    """Sees every event of a training run as it happens, and may stop the training or roll it back."""

    by_default: ClassVar[bool] = False
    """Whether a recipe without a `watch:` block uses it."""

    @abstractmethod
    def see(self, event: Mapping[str, Any]) -> Stop | RollBack | Warn | None:
        """Handle an event; return `ftp.Stop`, `ftp.RollBack` or `ftp.Warn` with a reason, or None.

        `event["event"]` is its name: `start` (name, id, directory), `plan`, `metric`, `validation`, `resume`,
        `rollback`, `best`, `score`, `end`, … as listed at `ftp.TrainingJob.emit`. After `rollback` (step), the steps
        that follow that step are repeated. `watcher` (by, asks, reason, step) is a watcher's answer; an answer to that
        event is ignored.
        """

    def replay(self, event: Mapping[str, Any]) -> None:
        """Handle an event of an earlier process when a run is resumed, up to the step that it resumes from."""
        self.see(event)


class Evaluator(Component):
    """Compares the base and the tuned model on an eval set. Define `score`, or `evaluate` for anything richer."""

    takes: ClassVar[tuple[Kind, ...]] = ("conversation",)
    """The kinds of example that it can score; a recipe with other kinds is refused."""
    reads_answers: ClassVar[bool] = True
    """Whether it needs generated answers; an evaluator that uses losses alone doesn't."""
    reads_losses: ClassVar[bool] = False
    """Whether it needs the losses on the references: it then can't compare with a model that gives none, such as one
    on a server."""
    higher_is_better: ClassVar[bool] = True
    """Whether a higher `score` is better."""

    def check(self, examples: Sequence[Example]) -> None:
        """Raise `ftp.DataError` for an eval set that can't be scored. Called before any model is loaded."""

    def files(self) -> Sequence[Path]:
        """Return the files that its results depend on besides the recipe. If one of them changes, it is another run."""
        return ()

    @property
    def on_its_own(self) -> bool:
        """Whether it is evaluated on what it brings or measures rather than on the recipe's eval sets.

        Override it where that depends on the options.
        """
        return isinstance(self, BringsEvals | MeasuresModel)

    def score(self, example: Example, answer: str) -> Score | float:
        """Score one answer to one example."""
        raise NotImplementedError

    def evaluate(self, view: EvalView) -> Evaluation:
        """Score every answer of both models and pair the scores, example by example.

        A score of NaN counts as missing.
        """

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
        return Evaluation(metrics=(metric, *pass_at_k(metric, view)), n=len(view.examples))

    def conclude(self, evaluation: Evaluation) -> Sequence[str]:
        """Return notes on what its figures say, once their p-values are adjusted for the run's other metrics."""
        return ()

    def rehearse(self, view: EvalView) -> Evaluation | None:
        """Try the evaluation before training, and return what it finds; the figures are dropped.

        A bug then shows before hours of training and not after them. Override it to return None where an evaluation
        costs money or leaves traces.

        Args:
            view: the base model's answers to a few examples, as those of both models.
        """
        return self.anew().evaluate(view)


def pass_at_k(metric: Metric, view: EvalView) -> list[Metric]:
    """Return pass@k: the share of prompts to which at least one of the `view.samples` answers is right.

    It is the unbiased estimate of Chen et al. 2021 (arXiv:2107.03374) where all samples count. Empty where a prompt has
    one answer, or where the scores of `metric` are not 0 and 1.
    """
    k = view.samples
    if k == 1 or not {*metric.base_scores, *metric.tuned_scores} <= {0.0, 1.0}:
        return []
    starts = range(0, len(view.examples), k)
    base, tuned = ([max(scores[at : at + k]) for at in starts] for scores in (metric.base_scores, metric.tuned_scores))
    clusters = clusters_of([view.examples[at] for at in starts])
    return [paired_metric(f"pass@{k}", base, tuned, higher_is_better=metric.higher_is_better, clusters=clusters)]


class BringsEvals(ABC):
    """Mix-in for an evaluator that brings its own eval sets. An evaluator that defines the method counts, too."""

    @abstractmethod
    def own_evals(self) -> Mapping[str, Sequence[Example]]:
        """Return the eval sets by name. A name must be usable as a file name and unique to a set of examples.

        Each example names its `source`; the pipeline assigns the ids. Running text is treated as part of a longer
        one: its end of sequence isn't scored. Curators treat these sets like the recipe's own, so their rows are kept
        out of training. Both models answer them, but only the evaluators that bring a set see the answers.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return _defines(other, "own_evals") if cls is BringsEvals else NotImplemented


class MeasuresModel(ABC):
    """Mix-in for an evaluator that measures a model in memory. An evaluator that defines the method counts, too."""

    @abstractmethod
    def measure(self, model: LoadedModel) -> Mapping[str, Any]:
        """Measure a model and return the results as JSON-compatible values.

        Called once for the base and once for the tuned model; `evaluate` gets both, as `view.base_measured` and
        `view.tuned_measured`. The model is in eval mode and must be left unchanged.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return _defines(other, "measure") if cls is MeasuresModel else NotImplemented


def _defines(cls: type, method: str) -> Any:
    """Implement `__subclasshook__` for a class with one method, as collections.abc does."""
    return any(method in vars(base) and vars(base)[method] is not None for base in cls.__mro__) or NotImplemented


def _nobody(what: Any) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What an engine works with: set by the pipeline, never by a recipe."""

    model: LoadedModel | None = None
    """The model that answers; None for an engine with a model of its own."""
    directory: Path | None = None
    """The run directory, for the records of an engine that calls a service; None outside a run."""
    who: str = ""
    """Whose answers they are: `base`, `tuned` or the name under `against:`."""
    evals: str = ""
    """The eval set that is answered."""
    progress: Callable[[int], None] = _nobody
    """Called with the number of answers done since its last call."""
    note: Callable[[str], object] = _nobody
    """Called with each message for the user."""


class Engine(Component, Decoding):
    """Answers prompts, with a model that the pipeline has loaded or with one of its own."""

    by_default: ClassVar[bool] = False
    """Whether it answers in a recipe whose `answers:` block names no engine."""
    own_model: ClassVar[bool] = False
    """Whether it has a model of its own, such as one on a server. It can then stand under `against:`; one without
    answers for the models that the pipeline has loaded."""

    _work: EngineWork = PrivateAttr(default=EngineWork())

    @property
    def work(self) -> EngineWork:
        """The model to answer with, and whom to tell."""
        return self._work

    def at_work(self, work: EngineWork) -> Self:
        """Return the same engine with this `work`."""
        engine = self.model_copy()
        engine._work = work
        return engine

    @property
    def options(self) -> AnswerOptions:
        """How this engine answers, as `answer` takes it."""
        fields = {name for name in AnswerOptions.model_fields if name in type(self).model_fields}
        return AnswerOptions.model_construct(**{name: getattr(self, name) for name in sorted(fields)})

    def fingerprint(self) -> str | None:
        """Return what the answers of an engine with a model of its own depend on, besides its options.

        None where that isn't known: its answers are then kept for the run and not for other runs.
        """
        return None

    @abstractmethod
    def answer(self, prompts: Sequence[Example], options: AnswerOptions) -> Sequence[Answer]:
        """Answer the prompt of every example.

        Returns:
            `options.samples` answers to each prompt, those to one prompt beside one another: an answer for every
            prompt, in the order of the prompts, where there is one sample.

        Raises:
            ModelError: the prompts can't be answered.
        """

    def losses(self, examples: Sequence[Example]) -> Sequence[TokenLoss] | None:
        """Return the loss on the reference of every example; None for an engine that can't tell.

        Asked only of an engine with a model of its own: the pipeline measures those that it has loaded.
        """
        return None


class Reporter(Component):
    """Writes a report of a finished run."""

    @abstractmethod
    def report(self, run: FinishedRun) -> Path:
        """Write the report into `run.directory` and return its path."""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Everything an exporter needs."""

    run: FinishedRun
    directory: Path
    """To write into. It takes its place among the exports when all is written and compared."""
    load: Callable[[Weights], LoadedModel]
    """Load the model of the run; the exporter may change what it gets. Raise `ftp.ModelError` where that can't be."""
    base: Callable[[], LoadedModel]
    """Load the base model as it was loaded for training."""
    tokenizer: LoadedTokenizer
    """The run's tokenizer and the tokens that end an answer."""
    note: Callable[[str], None]
    """Tell the user something worth knowing."""


class Exporter(Component):
    """Writes the model of a run in a form that other programs load."""

    folder: Annotated[str, Field(pattern=PLAIN_NAME)] | None = None
    """The directory below the run's exports/. Default: the name of the format."""
    proof: Proof = Proof()
    """How the export is compared with the model of the run, and how far it may be from it."""

    @property
    def place(self) -> str:
        """Name of its directory below exports/."""
        return self.folder or self.used_as

    @property
    def weights(self) -> Weights:
        """Which model the export has to equal. With `original` it isn't the one that was evaluated, and says so."""
        return "trained"

    def usual_proof(self) -> Proof:
        """Return the bounds that hold where the recipe gives none."""
        return Proof(kl=1e-3, top1=0.99)

    def rehearse(self, base: LoadedModel, whole: bool) -> int:
        """Check on the base model, before anything is trained, that its trained form can be exported.

        Nothing is written and the model is left as it is.

        Args:
            base: the base model as it is loaded for training.
            whole: whether training leaves all weights, and not a part that goes on the base.

        Returns:
            Bytes of disk that the export takes at most, or 0 where that isn't known.

        Raises:
            ModelError: why it can't be exported.
        """
        return 0

    @abstractmethod
    def export(self, job: ExportJob) -> Path:
        """Write the export into `job.directory` and return its main file, or the directory."""

    @abstractmethod
    def reopen(self, job: ExportJob, path: Path) -> Exported:
        """Open the export with a program that people use it with, so that it can be compared with the run."""

    def finish(self, job: ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        """Write what depends on the comparison, such as a model card, beside the export.

        Args:
            path: what `export` returned, under its final name.
            record: what goes into export.json.
        """


KINDS: dict[str, type[Component]] = {
    "formatters": Formatter,
    "curators": Curator,
    "loaders": Loader,
    "adapters": Adapter,
    "trainers": Trainer,
    "watchers": Watcher,
    "engines": Engine,
    "evaluators": Evaluator,
    "reporters": Reporter,
    "exporters": Exporter,
}
"""The kinds of component, by hook name without the prefix `ftp_`."""


def unfinished(component: type[Component]) -> str | None:
    """Return which method a component class still has to define, or None when it is complete."""
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
    """Return the kind of a component, as named in KINDS."""
    return next(kind for kind, base in KINDS.items() if isinstance(component, base))
