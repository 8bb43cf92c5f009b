"""Train from the first step, or from the last checkpoint, to the result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ftp.errors import Interrupted, ModelError
from ftp.lm.training.signals import Signals
from ftp.lm.training.torch_checkpoints import check, load_progress, load_weights, save_progress, step_of
from ftp.lm.training.torch_processes import current
from ftp.lm.training.torch_trainer import TrainerWithParts
from ftp.types import RollBack, TrainResult


def train(trainer: TrainerWithParts) -> TrainResult:
    """Train to the end, resuming and rolling back as needed, and leave the model in its best state.

    Raises:
        ModelError: the batch doesn't fit, the loss or a weight is not finite, or a checkpoint can't be written.
        Interrupted: a signal has ended it, after a checkpoint.
    """
    parts, model = trainer.parts, trainer.parts.job.model.model
    planned = planned_figures(trainer)
    parts.job.emit("plan", **planned, best_by=parts.best_by, loss_unit=parts.loss_unit)
    try:
        _train_steps(trainer, planned["steps"])
    finally:
        # Accelerate leaves its bfloat16 autocast around forward; the base answered without it.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if parts.signal:
        raise Interrupted(parts.signal)
    done = trainer.state.global_step
    current().wait()  # for the first to have written the best state
    best_step = _restore_best(trainer)
    current().wait()  # for all to have read it
    if not parts.weights_are_finite():
        raise ModelError("the trained weights are not finite; lower train.learning_rate")
    model.eval()
    return TrainResult(
        model=parts.job.model,
        steps=done,
        best_step=best_step,
        trained_tokens=round(planned["trained_tokens"] * done / planned["steps"]),
        seconds=parts.progress.seconds,
        trainable_parameters=planned["trainable_parameters"],
        total_parameters=planned["total_parameters"],
    )


def planned_figures(trainer: TrainerWithParts) -> dict[str, int]:
    """Return what is known about a training before its first step. `_mb` is in 10^6 bytes.

    `checkpoint_mb` is a checkpoint to resume from: the weights that train and the optimizer's state. `best_mb` is the
    best state, those weights alone. New ones are whole before the old ones go; `checkpoints_kept` of each remain.
    """
    parts, args, model = trainer.parts, trainer.args, trainer.parts.job.model.model
    steps_per_epoch = trainer.steps_per_epoch()
    steps = planned_steps(trainer)
    training = [weight for weight in model.parameters() if weight.requires_grad]
    weights = sum(weight.numel() * weight.element_size() for weight in training)
    validation_rows = len(parts.validation or trainer.eval_dataset or ())
    return {
        "steps": steps,
        "rows": len(parts.lengths),
        "tokens_per_epoch": sum(parts.lengths) * parts.repeats,
        "trained_tokens_per_epoch": parts.trained_tokens * parts.repeats,
        "trained_tokens": round(parts.trained_tokens * parts.repeats * steps / steps_per_epoch),
        "trainable_parameters": sum(weight.numel() for weight in training),
        "total_parameters": model.num_parameters(),
        "validation_rows": validation_rows,
        "evaluations": _times(args.eval_strategy, args.eval_steps, steps, args) + 1 if validation_rows else 0,
        "checkpoints": _times(args.save_strategy, args.save_steps, steps, args) + 1,
        "checkpoint_mb": math.ceil((weights + trainer.optimizer_bytes()) / 1e6),
        "best_mb": math.ceil(weights / 1e6) if validation_rows else 0,
        "checkpoints_kept": parts.checkpoints_kept,
    }


def planned_steps(trainer: TrainerWithParts) -> int:
    """Return the number of optimizer steps of the whole training: `max_steps` of its arguments, or all epochs."""
    args = trainer.args
    epochs: float = args.num_train_epochs
    return args.max_steps if args.max_steps > 0 else max(1, math.ceil(trainer.steps_per_epoch() * epochs))


def _times(strategy: str, every: float | None, steps: int, args: Any) -> int:
    """Return how often a trainer stops to evaluate, or to save; `every` is a number of steps, or a share of them."""
    if strategy == "epoch":
        epochs: float = args.num_train_epochs
        return math.ceil(epochs)
    if strategy == "steps" and every:
        return math.ceil(steps / (every if every >= 1 else math.ceil(steps * every)))
    return 0


def _train_steps(trainer: TrainerWithParts, steps: int) -> None:
    """Take the remaining steps from the last checkpoint on, and again from there after each roll-back."""
    parts = trainer.parts
    current().wait()
    last = parts.checkpoints.last()
    if last is not None:
        check(last)
        parts.job.emit("resume", step=step_of(last))
    trainer.args.eval_on_start = trainer.validates and last is None
    with Signals(parts):
        while last is None or not _is_finished(trainer, last, steps):
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            decision = parts.decision
            if not isinstance(decision, RollBack):
                break
            current().wait()
            last = parts.checkpoints.last()
            if last is None:
                raise ModelError(f"{decision.reason}; there is no checkpoint to return to")
            _prepare_restart(trainer, last, decision.factor)
            parts.job.emit("rollback", step=step_of(last), factor=decision.factor, reason=decision.reason)


def _is_finished(trainer: TrainerWithParts, checkpoint: Path, steps: int) -> bool:
    """Return whether training had finished with this as its last checkpoint; if so, load its state."""
    step = step_of(checkpoint)
    if step < steps and not load_progress(checkpoint).stopped:
        return False
    trainer.load_checkpoint(checkpoint)
    trainer.state.global_step = step
    return True


def _prepare_restart(trainer: Any, checkpoint: Path, factor: float) -> None:
    """Prepare another `train` from a checkpoint, at a lower rate that survives an interruption."""
    trainer.parts.decision = None
    progress = load_progress(checkpoint)
    progress.factor *= factor
    current().wait()  # for all to have read what is written now
    if current().first:
        save_progress(checkpoint, progress)
    current().wait()
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.model_wrapped = trainer.model
    trainer.control.should_training_stop = trainer.control.should_save = False
    trainer.args.eval_on_start = False


def _restore_best(trainer: TrainerWithParts) -> int:
    """Load the best state if there was a validation after a step, emit its event, and return its step."""
    parts, progress, done = trainer.parts, trainer.parts.progress, trainer.state.global_step
    if not progress.best_step:  # stopped before the first validation
        return int(done)
    if progress.best_step != done:
        check(parts.checkpoints.best(progress.best_step))
        load_weights(parts.checkpoints.best(progress.best_step), parts.job.model.model)
    parts.job.emit("best", step=progress.best_step, loss=progress.best_loss, best_by=parts.best_by)
    if progress.best_loss > progress.first:
        parts.job.emit(
            "note",
            text=f"Training never brought the validation loss below the base model's: {progress.first:.4f} "
            f"before, {progress.best_loss:.4f} at best.",
        )
    return progress.best_step
