"""The state of a training, its events, and the decisions of watchers and signals on it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ftp.components import TrainingJob
from ftp.errors import ModelError
from ftp.lm.training.torch_checkpoints import Checkpoints, Progress, best_name, save_weights
from ftp.lm.training.torch_memory import peak_memory_mb
from ftp.lm.training.torch_processes import current
from ftp.lm.training.torch_validation import Validation
from ftp.types import RollBack, Stop


class TrainingParts:
    """What one training knows beyond its `transformers.Trainer`. Given to it with `TrainerWithParts.use_parts`.

    Args:
        job: what to train, and whom to tell.
        lengths: tokens of each training row, in the order of the trainer's dataset.
        trained_tokens: tokens of all training rows that carry loss.
        validation: what measures the validation rows; None for the trainer's own evaluation of its `eval_dataset`.
        best_by: `loss`, another figure of the validation (the higher the better), or the metric of an evaluator that
            `job.score` knows, taken on `dev_rows` rows.
        checkpoint_minutes: a checkpoint is saved when so many minutes have passed without one.
        checkpoints_kept: how many of them are kept.
        log_also: names of further values that the trainer logs and the event `metric` shall carry.
        loss_unit: the unit of the loss, in words.
        repeats: how many times an epoch takes each row.
    """

    def __init__(
        self,
        job: TrainingJob,
        lengths: Sequence[int],
        trained_tokens: int,
        *,
        validation: Validation | None = None,
        best_by: str = "loss",
        dev_rows: int = 50,
        checkpoint_minutes: float = 30,
        checkpoints_kept: int = 1,
        log_also: Sequence[str] = (),
        loss_unit: str = "nats per token",
        repeats: int = 1,
    ) -> None:
        self.job, self.lengths, self.trained_tokens = job, lengths, trained_tokens
        self.validation, self.best_by, self.dev_rows = validation, best_by, dev_rows
        self.checkpoint_minutes, self.log_also, self.loss_unit = checkpoint_minutes, log_also, loss_unit
        self.checkpoints_kept, self.repeats = checkpoints_kept, repeats
        self.checkpoints = Checkpoints(job.directory)
        self.progress = Progress()
        self.decision: Stop | RollBack | None = None
        self.signal = 0
        self.resumed = False
        self.clock = self.saved_at = time.monotonic()

    def longest_rows(self, count: int) -> list[int]:
        """Return the numbers of the longest training rows, the longest first."""
        return sorted(range(len(self.lengths)), key=lambda row: -self.lengths[row])[:count]

    def largest_batch(self, batch_size: int) -> int:
        """Return the number of tokens of the largest batch that training can meet."""
        return sum(self.lengths[row] for row in self.longest_rows(batch_size))

    def weights_are_finite(self) -> bool:
        """Return whether the weights that train are finite."""
        return all(bool(w.isfinite().all()) for w in self.job.model.model.parameters() if w.requires_grad)

    def lap(self) -> float:
        """Add the seconds since the last call to the training time, and return them."""
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        self.progress.seconds += seconds
        return seconds

    # --- events

    def emit_metric(self, logs: Mapping[str, Any], state: Any, control: Any, device: Any) -> None:
        """Emit the event of an optimizer step, and apply what the watchers decide.

        Raises:
            ModelError: the loss is not finite, and no watcher has decided what to do.
        """
        seconds, progress = self.lap(), self.progress
        tokens = progress.tokens - progress.counted
        progress.counted = progress.tokens
        decision = self.job.emit(
            "metric",
            step=state.global_step,
            epoch=state.epoch,
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            learning_rate=logs.get("learning_rate"),
            tokens=progress.tokens,
            seconds=progress.seconds,
            tokens_per_second=tokens / seconds if seconds else None,
            memory_mb=peak_memory_mb(device),
            **{name: logs[name] for name in self.log_also if name in logs},
        )
        self.apply_decision(decision, control)
        if decision is None and not math.isfinite(logs["loss"]):
            raise ModelError(
                f"the training loss is {logs['loss']} at step {state.global_step}; lower train.learning_rate, "
                "or load the model in bfloat16 or float32"
            )

    def score(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return the `score` of the state if the recipe asks for one; the model must be as it is evaluated.

        Args:
            values: what its validation measured; states that are compared by one of these need no other score.
        """
        if self.best_by in values or self.job.score is None:
            return {}
        score = functools.partial(self.job.score, self.best_by, self.dev_rows)
        return {"score": current().from_first(score)}

    def emit_validation(self, values: Mapping[str, Any], state: Any, control: Any) -> None:
        """Keep the state if it is the best, by its `score` if it has one; emit the event, apply decisions."""
        step, loss = state.global_step, values["loss"]
        values = {"loss": loss, "best_by": self.best_by, **values}
        if self.best_by in values and self.best_by != "loss":
            values["score"] = values[self.best_by]
        compared = -values["score"] if "score" in values else loss
        if step == 0:
            self.progress.first = loss
        elif compared < self.progress.best:  # the untrained model is no candidate
            self.progress.best, self.progress.best_step, self.progress.best_loss = compared, step, loss
            if current().first:
                with self.checkpoints.new(best_name(step)) as directory:
                    save_weights(directory, self.job.model.model)
        self.apply_decision(self.job.emit("validation", step=step, epoch=state.epoch or 0.0, **values), control)
        self.apply_signal(control)

    # --- decisions

    def apply_decision(self, decision: Stop | RollBack | None, control: Any) -> None:
        """End the trainer's loop as a watcher asks; nothing follows a stop."""
        if decision is None or isinstance(self.decision, Stop):
            return
        self.decision = decision
        self.progress.stopped = isinstance(decision, Stop)
        control.should_training_stop = True
        control.should_save = isinstance(decision, Stop)

    def apply_signal(self, control: Any) -> None:
        """End the trainer's loop with a checkpoint if a signal has come to any process."""
        self.signal = current().largest(self.signal)
        if self.signal:
            control.should_training_stop = True
            control.should_save = not isinstance(self.decision, RollBack)  # not what is to be undone
