"""Evaluators and reporters: what an answer is worth, and who is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import PrivateAttr

from ftp.components.component import Component, defines
from ftp.stats.clusters import clusters_of
from ftp.stats.paired import paired_metric
from ftp.stats.samples import pass_at_k
from ftp.types import Answer, Evaluation, EvalView, Example, FinishedRun, Kind, LoadedModel, Score


@dataclass(frozen=True)
class Weighted:
    """Marks a slot whose blocks take a `weight:` beside their own options.

    The rewards of a trainer are `list[Annotated[ftp.Evaluator, ftp.Weighted()]]`, each with its `weight_given`.
    """


class Evaluator(Component):
    """Compares the base and the tuned model on an eval set. Define `score`, or `evaluate` for anything richer.

    One that defines `score`, or `scores` for many answers at once, can be the reward of a trainer too.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("conversation",)
    """The kinds of example that it can score; a recipe with other kinds is refused."""
    reads_answers: ClassVar[bool] = True
    """Whether it needs generated answers; an evaluator that uses losses alone doesn't."""
    reads_losses: ClassVar[bool] = False
    """Whether it needs the losses on the references: it then can't compare with a model that gives none, such as one
    on a server."""
    higher_is_better: ClassVar[bool] = True
    """Whether a higher `score` is better."""

    _weight: float | None = PrivateAttr(default=None)
    _directory: Path | None = PrivateAttr(default=None)

    @property
    def weight_given(self) -> float | None:
        """Weight in a slot that takes one, such as the rewards of a trainer; None elsewhere."""
        return self._weight

    def weighing(self, weight: float) -> Self:
        """Return the same evaluator with a weight."""
        evaluator = self.model_copy()
        evaluator._weight = weight
        return evaluator

    @property
    def directory(self) -> Path | None:
        """The run directory, for the records of a reward; None where it is none or outside a run."""
        return self._directory

    def recording_in(self, directory: Path | None) -> Self:
        """Return the same evaluator as a reward that keeps its records in this run directory."""
        evaluator = self.model_copy()
        evaluator._directory = directory
        return evaluator

    @classmethod
    def scores_answers(cls) -> bool:
        """Return whether it gives each answer a score, without which it can't be a reward."""
        return cls.score is not Evaluator.score or cls.scores is not Evaluator.scores

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

    def measure_examples(
        self, model: LoadedModel, examples: Sequence[Example], progress: Callable[[int], None]
    ) -> Sequence[Any] | None:
        """Measure a model in memory on each example of an eval set; return a JSON-compatible value for each.

        Called once for the base and once for the tuned model; `evaluate` gets the values as `view.base_values` and
        `view.tuned_values`. The model is in eval mode and must be left unchanged. None: it measures nothing.

        Args:
            progress: called with the number of examples done since its last call.
        """
        return None

    @property
    def measures_examples(self) -> bool:
        """Whether it defines `measure_examples`."""
        return type(self).measure_examples is not Evaluator.measure_examples

    def score(self, example: Example, answer: str) -> Score | float:
        """Score one answer to one example."""
        raise NotImplementedError

    def scores(self, examples: Sequence[Example], answers: Sequence[str]) -> Sequence[Score]:
        """Score many answers, each to the example in its place.

        Override it where many are scored faster than one after the other. A score of NaN counts as missing.
        """
        found = [self.score(example, answer) for example, answer in zip(examples, answers, strict=True)]
        return [score if isinstance(score, Score) else Score(float(score)) for score in found]

    def evaluate(self, view: EvalView) -> Evaluation:
        """Score every answer of both models and pair the scores, example by example.

        A score of NaN counts as missing.
        """

        def scores(answers: Sequence[Answer]) -> Sequence[Score]:
            return self.scores(view.examples, [answer.text for answer in answers])

        base, tuned = scores(view.base_answers), scores(view.tuned_answers)
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
        return defines(other, "own_evals") if cls is BringsEvals else NotImplemented


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
        return defines(other, "measure") if cls is MeasuresModel else NotImplemented


class Reporter(Component):
    """Writes a report of a finished run."""

    @abstractmethod
    def report(self, run: FinishedRun) -> Path:
        """Write the report into `run.directory` and return its path."""
