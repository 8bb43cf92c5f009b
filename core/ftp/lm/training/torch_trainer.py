"""A `transformers.Trainer` with FTP's parts: a callback, and the few methods without a callback."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from ftp.lm import allocator
from ftp.lm.training.torch_checkpoints import (
    load_progress,
    load_weights,
    reading,
    save_progress,
    save_weights,
    step_name,
)
from ftp.lm.training.torch_parts import TrainingParts
from ftp.lm.training.torch_processes import current
from ftp.lm.training.torch_rehearsal import rehearse
from ftp.lm.training.torch_step_sums import StepSums


class TrainerWithParts(Trainer):  # type: ignore[misc]
    """Mix-in for another trainer: `class DPO(TrainerWithParts, trl.DPOTrainer)`.

    Call `use_parts` once after the constructor, then `ftp.lm.training.torch_run.train`.
    """

    parts: TrainingParts

    def use_parts(self, parts: TrainingParts) -> None:
        """Attach the parts that observe and control the training."""
        self.parts = parts
        self.sums = StepSums(self, current())
        self.remove_callback(PrinterCallback)
        self.add_callback(PartsCallback(self))

    @property
    def validates(self) -> bool:
        """Whether there are rows to compute a validation loss on."""
        return self.parts.validation is not None or self.eval_dataset is not None

    def count_tokens(self, inputs: Mapping[str, Any]) -> int:
        """Return the tokens of a collated batch, without padding."""
        mask = inputs.get("attention_mask")
        return int(mask.sum()) if mask is not None else inputs["input_ids"].numel()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Count the tokens and call the trainer's own step; sum both, and the gradients, over all processes."""
        tokens = self.count_tokens(inputs)
        with self.sums.own_random_numbers():
            loss = super().training_step(model, inputs, num_items_in_batch)
        loss, tokens = self.sums.add(loss, tokens)
        self.parts.progress.tokens += tokens
        return loss

    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps in an epoch."""
        accumulated: int = self.args.gradient_accumulation_steps
        at_once: int = self.args.per_device_train_batch_size
        batches = math.ceil(len(self.parts.lengths) / at_once)
        return math.ceil(batches / accumulated)

    def optimizer_bytes(self) -> int:
        """Return the bytes of the optimizer's state; those of AdamW, unless a trainer overrides it."""
        training = [weight for weight in self.parts.job.model.model.parameters() if weight.requires_grad]
        return sum(2 * weight.numel() * weight.element_size() for weight in training)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the library's count is wrong for packed batches, and nothing reads it."""
        return 0

    def rehearse(self) -> None:
        """Rehearse a training step, a validation and a checkpoint before the first step."""
        rehearse(self)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute the validation loss and keep the best state; before the first step, save a checkpoint."""
        if self.parts.validation is None:
            values = {"loss": super().evaluate(*args, **kwargs)["eval_loss"]}
        else:
            values = self.parts.validation.measure()
        metrics = {"eval_loss": values["loss"]}
        if self.parts.validation is not None:
            self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        with self.as_evaluated():
            values |= self.parts.score(values)
        self.parts.emit_validation(values, self.state, self.control)
        if self.state.global_step == 0:
            self.save_checkpoint()
        return metrics

    @contextlib.contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Have the model compute as it does after the training inside the block.

        Accelerate puts its bfloat16 autocast around the model's forward. A trainer that changes more of the model
        while it trains extends this.
        """
        own = vars(self.parts.job.model.model)
        wrapped = own.get("forward") if "_original_forward" in own else None
        if wrapped is not None:
            own["forward"] = own["_original_forward"]
        try:
            yield
        finally:
            if wrapped is not None:
                own["forward"] = wrapped

    def items_in(self, batches: list[Any]) -> Any:
        """Return what a loss over these collated batches is divided by, as the trainer counts it."""
        return self._get_num_items_in_batch(batches, self.args.device)

    # --- checkpoints

    def save_checkpoint(self) -> None:
        """Save the state of this step, to resume from."""
        self._save_checkpoint(self.model_wrapped, None)

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Take up the weights and the progress of a checkpoint."""
        self._load_from_checkpoint(str(checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        parts, step = self.parts, self.state.global_step
        if not parts.weights_are_finite():
            return  # useless for resuming; the previous one is kept
        parts.lap()
        if current().first:
            with parts.checkpoints.new(step_name(step)) as directory:
                self.write_state(directory)
            parts.checkpoints.keep_only(step, parts.progress.best_step, parts.checkpoints_kept)
        parts.saved_at = time.monotonic()
        parts.job.emit("checkpoint", step=step)

    def write_state(self, directory: Path) -> None:
        """Write everything that resuming needs into a directory."""
        save_weights(directory, self.parts.job.model.model)
        self._save_optimizer_and_scheduler(str(directory))
        self._save_scaler(str(directory))
        self._save_rng_state(str(directory))
        self.state.save_to_json(str(directory / TRAINER_STATE_NAME))
        save_progress(directory, self.parts.progress)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        directory = Path(resume_from_checkpoint)
        load_weights(directory, self.parts.job.model.model)
        self.parts.progress = load_progress(directory)
        self.parts.resumed = True

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # The rates of the groups as this recipe has them, before those of the checkpoint take their place.
        rates = [group["initial_lr"] * self.parts.progress.factor for group in self.optimizer.param_groups]
        with reading(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
        # A roll-back lowers the rate of a checkpoint that was saved with the higher one.
        scheduler = self.lr_scheduler
        scheduler.base_lrs = rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * scheduler.lr_lambdas[0](scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with reading(Path(checkpoint)):
            super()._load_rng_state(checkpoint)


class PartsCallback(TrainerCallback):  # type: ignore[misc]
    """Rehearses, emits metrics, obeys signals, saves in time, and keeps the heap from growing."""

    def __init__(self, trainer: TrainerWithParts) -> None:
        self.trainer, self.parts = trainer, trainer.parts
        self.growth = allocator.Growth()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # as this recipe says, not as the checkpoint's did
        if not self.parts.resumed:
            self.trainer.rehearse()
            if not args.eval_on_start:  # else it is saved with what that validation finds
                self.trainer.save_checkpoint()
        self.parts.clock = self.parts.saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.parts.apply_signal(control)
        if args.device.type == "cpu":
            self.growth.step_ended()
        if time.monotonic() - self.parts.saved_at >= self.parts.checkpoint_minutes * 60:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        state.log_history.clear()  # events.jsonl has it; in every checkpoint it would grow with the steps
        if logs and "loss" in logs:
            self.parts.emit_metric(logs, state, control, args.device)


@contextlib.contextmanager
def weight_types_kept(model: torch.nn.Module) -> Iterator[None]:
    """Restore the data types of the weights that train at the end of the block.

    TRL's constructors make the adapters of 4-bit models bfloat16, which is too coarse for optimizer steps.
    """
    before = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
    yield
    for name, weight in model.named_parameters():
        if name in before and weight.dtype != before[name].dtype:
            weight.data = before[name]
