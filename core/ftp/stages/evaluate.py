"""Run both models on the eval sets, and the evaluators on the results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ftp.components import Curator, Engine, Evaluator, MeasuresModel
from ftp.data.examples import Corpus, Examples
from ftp.errors import ComponentError, RunError
from ftp.guard import blaming, call, described
from ftp.results import contestant, view_of
from ftp.runs.directory import RunDirectory
from ftp.stages.ask import Asking, Question
from ftp.stages.own_evals import own_evals, together
from ftp.stats.paired import adjusted, on_subsets
from ftp.types import Evaluation, EvalView, Example, LoadedModel, Metric

REHEARSED = 20
"""Examples of each eval set that evaluators are tried on before training."""


@dataclass(frozen=True)
class Evaluating:
    """Runs the evaluators of a recipe in a run directory."""

    evaluators: Sequence[Evaluator]
    engine: Engine | None
    """What answers for models in memory; None where nothing reads answers."""
    directory: RunDirectory
    stage: Callable[[str, int | None], Callable[[int], None]]
    """Called with the title and the units of a stage; returns a function to call with the units done."""
    note: Callable[[str], object] = lambda text: None
    """Called with each message for the user."""
    emit: Callable[..., object] = lambda event, **values: None
    """Called with the name and the values of an event."""

    @cached_property
    def own_evals(self) -> dict[str, Sequence[Example]]:
        """The eval sets that evaluators bring; see `own_evals`."""
        return together(self._own)

    @cached_property
    def _own(self) -> list[tuple[Evaluator, Mapping[str, Sequence[Example]]]]:
        return [(evaluator, own_evals(evaluator)) for evaluator in self.evaluators]

    def sets_of(self, evaluator: Evaluator, evals: Mapping[str, Examples]) -> list[str]:
        """Return the eval sets that an evaluator is evaluated on."""
        if evaluator.on_its_own:
            return next(list(sets) for other, sets in self._own if other is evaluator)
        return [name for name in evals if name not in self.own_evals]

    def check(self, evals: Mapping[str, Examples]) -> None:
        """Let every evaluator check its eval sets before a model is loaded.

        Raises:
            DataError: one of them can't be scored.
        """
        for evaluator in self.evaluators:
            for name in self.sets_of(evaluator, evals):
                call(object, evaluator.check, evals[name])

    def ask(self, who: str, loaded: LoadedModel, trained: Path | None, evals: Mapping[str, Examples]) -> None:
        """Run a model on every eval set and write the results to disk: its answers, losses and measurements.

        Args:
            who: `base` or `tuned`.
            trained: the directory of the trained weights that are in the model.
        """
        self.ask_model(who, loaded, trained, evals)
        for number, evaluator in enumerate(self.evaluators):
            if isinstance(evaluator, MeasuresModel):
                self.stage(f"{evaluator.used_as} on the {who} model", None)
                was_training = loaded.model.training
                loaded.model.eval()
                found = call(Mapping, evaluator.measure, loaded)
                loaded.model.train(was_training)
                with blaming(evaluator, "measure"):  # its figures may be nothing that JSON knows
                    self.directory.write_json(self._measured(who, number), found)

            elif evaluator.measures_examples:
                for name in self.sets_of(evaluator, evals):
                    self._measure_examples(who, number, loaded, name, evals[name])

    def _measure_examples(self, who: str, number: int, loaded: LoadedModel, name: str, examples: Examples) -> None:
        """Have an evaluator measure a model on each example of an eval set, and write the values."""
        evaluator = self.evaluators[number]
        advance = self.stage(f"{evaluator.used_as} of the {who} model on {name}", len(examples))
        was_training = loaded.model.training
        loaded.model.eval()
        values = call(Sequence | None, evaluator.measure_examples, loaded, list(examples), advance) or ()
        loaded.model.train(was_training)
        if len(values) != len(examples):
            what = f"measure_examples returned {len(values)} values for {len(examples)} examples"
            raise ComponentError(f"{described(evaluator)}: {what}")
        with blaming(evaluator, "measure_examples"):
            self.directory.write_json(self._measured(who, number, name), list(values))

    def ask_model(self, who: str, loaded: LoadedModel, trained: Path | None, evals: Mapping[str, Examples]) -> None:
        """Have a model in memory answer eval sets, and measure its losses on them; see `ask`."""
        for name, examples in evals.items():
            engine = self.engine if self._reads_answers(name, evals) else None
            self._asking.loaded_model(Question(who, name, examples, name in self.own_evals), loaded, trained, engine)

    def ask_engine(self, who: str, engine: Engine, evals: Mapping[str, Examples]) -> None:
        """Have an engine with a model of its own answer those eval sets whose answers are read."""
        for name, examples in evals.items():
            if self._reads_answers(name, evals):
                self._asking.own_model(Question(who, name, examples), engine)

    def _reads_answers(self, name: str, evals: Mapping[str, Examples]) -> bool:
        return any(e.reads_answers and name in self.sets_of(e, evals) for e in self.evaluators)

    @property
    def _asking(self) -> Asking:
        return Asking(self.directory, self.stage, self.note, self.emit)

    def _measured(self, who: str, number: int, name: str = "") -> str:
        """Return the file with an evaluator's measurements of a model, on an eval set where it measures examples."""
        return f"answers/{who}.{number}-{self.evaluators[number].used_as}{name and '-'}{name}.json"

    def evaluate(
        self, corpus: Corpus, leaked: Collection[str], emit: Callable[..., Any] = lambda *event, **values: None
    ) -> list[Evaluation]:
        """Let every evaluator compare the two models on its eval sets, and write the results.

        Args:
            leaked: the ids of the eval rows that leaked, see `leaked_rows`.
            emit: called with an event `score` for every metric.

        If an eval set has leaked rows, each metric is also given on the clean and on the leaked rows alone. The
        p-values are adjusted for multiple comparisons (Holm): those of all metrics of all evaluators together, and
        those on all clean and leaked rows together, so that leaks don't weaken the verdicts on the whole.
        """
        pairs: list[tuple[Evaluator, Evaluation]] = []
        for number, evaluator in enumerate(self.evaluators):
            for view in self._views(number, evaluator, corpus):
                evaluation = evaluated(evaluator, view)
                flags = [example.id in leaked for example in view.examples]
                notes = (*evaluation.notes, *_unscored(evaluation), *_leaks(flags))
                subsets = _subsets(evaluation.metrics, flags) if any(flags) else {}
                named = dataclasses.replace(evaluation, evaluator=evaluator.used_as, evals=view.name)
                pairs.append((evaluator, dataclasses.replace(named, notes=notes, subsets=subsets)))
        found = [_concluded(evaluator, evaluation) for evaluator, evaluation in _adjusted(pairs)]
        for evaluation in found:
            for m in evaluation.metrics:
                names = {"evaluator": evaluation.evaluator, "evals": evaluation.evals, "metric": m.name}
                emit("score", **names, base=m.base, tuned=m.tuned)
        self.directory.write_json("evaluation.json", [dataclasses.asdict(evaluation) for evaluation in found])
        return found

    def compare(self, contestants: Collection[str], corpus: Corpus) -> list[Evaluation]:
        """Let the evaluators compare the tuned model with each contestant, and write the results.

        An evaluator that measures models, or brings eval sets of its own, is left out; so is one that needs losses
        where the contestant gives none, with a note. The p-values are adjusted for all metrics of all contestants
        together, so that contestants don't weaken the verdicts on the base model.
        """
        evaluations: list[tuple[Evaluator, Evaluation]] = []
        names = [name for name in corpus.evals if name not in self.own_evals]
        for who in contestants:
            for evaluator in (e for e in self.evaluators if not e.on_its_own):
                for name in names:
                    view = view_of(self.directory, corpus, name, base=contestant(who))
                    found = _against(evaluator, dataclasses.replace(view, name=f"{name} against {who}"))
                    named = dataclasses.replace(found, evaluator=evaluator.used_as, evals=name, against=who)
                    evaluations.append((evaluator, named))
        concluded = [_concluded(evaluator, evaluation) for evaluator, evaluation in _adjusted(evaluations)]
        self.directory.write_json("against.json", [dataclasses.asdict(evaluation) for evaluation in concluded])
        return concluded

    def rehearse(self, corpus: Corpus) -> list[Evaluation]:
        """Have every evaluator score some of the base model's answers against themselves, and return what it finds.

        A bug in an evaluator shows before the hours of training, not after them.

        Raises:
            ComponentError: an evaluator failed, or returned what it may not.
        """
        found = []
        for number, evaluator in enumerate(self.evaluators):
            for whole in self._views(number, evaluator, corpus, tuned="base"):
                view = first_rows(dataclasses.replace(whole, directory=None), REHEARSED)
                evaluation = _tried(evaluator, view)
                if evaluation is not None:
                    found.append(dataclasses.replace(evaluation, evaluator=evaluator.used_as, evals=view.name))
        return found

    def _views(self, number: int, evaluator: Evaluator, corpus: Corpus, tuned: str = "tuned") -> list[EvalView]:
        """Return the views of an evaluator; `tuned` names the model whose answers stand for the tuned one's."""
        views = [view_of(self.directory, corpus, name, tuned) for name in self.sets_of(evaluator, corpus.evals)]
        if not isinstance(evaluator, MeasuresModel):
            return [self._with_values(number, view, tuned) for view in views] if evaluator.measures_examples else views
        measured = [self.directory.read_json(self._measured(who, number), dict[str, Any]) for who in ("base", tuned)]
        if None in measured:
            raise RunError(f"{self.directory.path}: what '{evaluator.used_as}' measured on the models is missing")
        views = views or [EvalView(evaluator.used_as, [], [], [], [], [], directory=self.directory.path)]
        return [dataclasses.replace(view, base_measured=measured[0], tuned_measured=measured[1]) for view in views]

    def _with_values(self, number: int, view: EvalView, tuned: str) -> EvalView:
        """Add what an evaluator measured on each example to a view."""
        values = [
            self.directory.read_json(self._measured(who, number, view.name), list[Any]) for who in ("base", tuned)
        ]
        if any(value is None or len(value) != len(view.examples) for value in values):
            used_as = self.evaluators[number].used_as
            raise RunError(f"{self.directory.path}: what '{used_as}' measured on the models is missing or incomplete")
        return dataclasses.replace(view, base_values=values[0], tuned_values=values[1])


def evaluated(evaluator: Evaluator, view: EvalView) -> Evaluation:
    """Have an evaluator compare the two models on an eval set.

    Raises:
        ComponentError: it failed, or returned what it may not.
    """
    found = call(Evaluation, evaluator.evaluate, view)
    _refuse_faults(evaluator, view, found)
    return found


def _against(evaluator: Evaluator, view: EvalView) -> Evaluation:
    """Compare the tuned model with a contestant, or say why that can't be done."""
    lacks = "losses" if evaluator.reads_losses and not view.base_losses else ""
    if evaluator.reads_answers and not view.base_answers:
        lacks = "answers"
    if evaluator.measures_examples:
        lacks = "probabilities"
    if lacks:
        return Evaluation((), (f"not compared: this contestant gives no {lacks}",), n=len(view.examples))
    found = evaluated(evaluator, view)
    return dataclasses.replace(found, notes=(*found.notes, *_unscored(found)))


def _tried(evaluator: Evaluator, view: EvalView) -> Evaluation | None:
    if type(evaluator).rehearse is Evaluator.rehearse:
        return evaluated(evaluator.anew(), view)  # what it returns is checked, and errors name what the author wrote
    return call(Evaluation | None, evaluator.rehearse, view)


def _refuse_faults(evaluator: Evaluator, view: EvalView, found: Evaluation) -> None:
    fault = _fault(found, None if isinstance(evaluator, MeasuresModel) else len(view.examples), view.samples)
    if fault:
        raise ComponentError(f"{described(evaluator)}: evaluate {fault}, on the eval set '{view.name}'")


def _fault(found: Evaluation, examples: int | None, samples: int) -> str | None:
    """Say what is wrong with an evaluation of so many examples, or None; None for one that measures the model."""
    for metric in found.metrics:
        if not isinstance(metric, Metric):
            return f"returned {type(metric).__name__} among its metrics, not ftp.Metric"
        counts = {len(metric.base_scores), len(metric.tuned_scores)}
        if len(counts) > 1 or (examples is not None and counts not in ({0}, {examples}, {examples // samples})):
            given = f"{len(metric.base_scores)} and {len(metric.tuned_scores)} scores"
            return f"gave '{metric.name}' {given}; one for each of the {examples} examples is needed, or none"
    numbers = [value for metric in found.metrics for value in (metric.base, metric.tuned)]
    # One that counts what it could not score, such as a judge whose service is down, says so in its notes.
    if numbers and all(map(math.isnan, numbers)) and "unscored" not in found.panel:
        return "gave no score that is a number"
    return None


def first_rows(view: EvalView, most: int) -> EvalView:
    """Return the view of the first examples of an eval set."""
    lists = ("examples", "base_answers", "tuned_answers", "base_losses", "tuned_losses", "base_values", "tuned_values")
    return dataclasses.replace(view, **{name: getattr(view, name)[: most * view.samples] for name in lists})


def _adjusted(evaluated: Sequence[tuple[Evaluator, Evaluation]]) -> list[tuple[Evaluator, Evaluation]]:
    """Adjust the p-values of all metrics for multiple comparisons, and those on subsets of the rows likewise."""
    whole = iter(adjusted([metric for _, evaluation in evaluated for metric in evaluation.metrics]))
    parts = iter(adjusted([m for _, evaluation in evaluated for part in evaluation.subsets.values() for m in part]))
    return [
        (
            evaluator,
            dataclasses.replace(
                evaluation,
                metrics=tuple(next(whole) for _ in evaluation.metrics),
                subsets={name: tuple(next(parts) for _ in part) for name, part in evaluation.subsets.items()},
            ),
        )
        for evaluator, evaluation in evaluated
    ]


def _concluded(evaluator: Evaluator, evaluation: Evaluation) -> Evaluation:
    """Put what the evaluator concludes from the adjusted figures before its other notes."""
    return dataclasses.replace(evaluation, notes=(*call(Sequence, evaluator.conclude, evaluation), *evaluation.notes))


def leaked_rows(
    findings: Sequence[Mapping[str, Any]], used: Callable[[str], bool], curators: Sequence[Curator] = ()
) -> set[str]:
    """Return the ids of the eval rows that leaked: those contained in a training or validation row.

    Args:
        findings: the ledger's; `id` is the row and `other` the eval row.
        used: whether the row with this id is among the training or validation rows. A row dropped because of the
            finding is not.
        curators: those of the recipe; each defines which of its findings are leaks (`Curator.leaks`).
    """
    leaks = {*Curator.leaks, *(what for curator in curators for what in curator.leaks)}
    return {found["other"] for found in findings if found["what"] in leaks and used(found["id"])}


def _leaks(flags: Sequence[bool]) -> list[str]:
    if not any(flags):
        return []
    rows = "rows are" if sum(flags) > 1 else "row is"
    similar = f"{sum(flags)} of {len(flags)} {rows} similar to a training row"
    return [f"leaks: {similar}; the clean rows are also reported separately"]


def _subsets(metrics: Sequence[Metric], flags: Sequence[bool]) -> dict[str, tuple[Metric, ...]]:
    """Return the metrics that have scores, on the clean and on the leaked rows alone."""
    parts = [on_subsets(metric, flags) for metric in metrics if len(metric.base_scores) == len(flags)]
    found = {name: tuple(part[name] for part in parts if name in part) for name in ("clean", "leaked")}
    return {name: part for name, part in found.items() if part}


def _unscored(evaluation: Evaluation) -> list[str]:
    """Return how many examples have no score for each metric, unless the evaluator says so itself."""
    if "unscored" in evaluation.panel:
        return []
    notes = []
    for metric in evaluation.metrics:
        pairs = list(zip(metric.base_scores, metric.tuned_scores, strict=True))
        missing = sum(math.isnan(base) or math.isnan(tuned) for base, tuned in pairs)
        if missing:
            notes.append(f"{metric.name}: {missing} of {len(pairs)} examples have no score and are left out")
    return notes
