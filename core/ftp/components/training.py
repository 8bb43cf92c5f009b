"""Trainers and watchers, and what they work with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ftp.components.component import Component
from ftp.components.engines import Engine
from ftp.data.examples import Corpus
from ftp.data.ledger import Ledger
from ftp.types import Kind, LoadedModel, LoadedTokenizer, RollBack, Stop, TrainResult, Warn


def _nowhere(name: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Record nothing, outside of a run."""


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
    engine: Engine | None = None
    """The recipe's engine, at work with `model`, for a trainer that sets `answers_prompts`."""
    record: Callable[[str, Sequence[Mapping[str, Any]]], None] = _nowhere
    """`record(name, lines)` appends lines of JSON to `name.jsonl` in the run directory."""
    run: Path | None = None
    """The run directory, for components such as rewards that keep records of their own; None outside a run."""


class Trainer(Component):
    """Trains the weights that the adapter left trainable."""

    takes: ClassVar[tuple[Kind, ...]] = ("conversation",)
    """The kinds of example that it can train on; a recipe with other kinds is refused."""
    measures: ClassVar[tuple[str, ...]] = ("loss",)
    """The figures of its validations: what the events `validation` carry by these names. All but losses are better the
    higher they are."""
    answers_prompts: ClassVar[bool] = False
    """Whether it has the recipe's engine answer prompts while it trains."""

    rate_share: ClassVar[float] = 1.0
    """The usual learning rates of its loss, as a share of those of supervised fine-tuning, which adapters name."""
    weighs_rows: ClassVar[bool] = False
    """Whether its loss reads the `weight` of examples, which sources give them."""
    trains_together: ClassVar[bool] = False
    """Whether it shares out its batches where several processes train, as `ftp.lm.training.torch_processes` tells."""

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

    def save(self, model: LoadedModel, directory: Path) -> None:
        """Write what this training adds to the weights that the adapter has saved in `directory`, such as a head."""

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

    @classmethod
    def by_default_with(cls, trainer: Trainer) -> bool:
        """Return whether a recipe without a `watch:` block uses it, where that depends on the trainer."""
        return cls.by_default

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
