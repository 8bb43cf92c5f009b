"""The training loop: TRL's trainer with our batches, loss, validation, checkpoints and watchers."""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ftp
from ftp.lm import allocator
from ftp.lm.tokens import TokenRows
from ftp.lm.torch_losses import token_losses
from ftp_plugins.speed.torch_batches import Batches, packed_batch, padded_batch, trained_in
from ftp_plugins.speed.torch_layers import weights_changed
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.trainers import torch_checkpoints as saved
from ftp_plugins.trainers.torch_memory import peak_memory_mb, too_much_memory


@functools.cache
def loop_class() -> Any:
    """The class, made when it is first used, because importing TRL takes seconds."""
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from transformers.trainer import TRAINER_STATE_NAME

    class Hooks(TrainerCallback):  # type: ignore[misc]
        """What the trainer calls back for."""

        def __init__(self, loop: Loop) -> None:
            self.loop = loop
            self.growth = allocator.Growth()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.compute_steps(args, state.max_steps)  # as this recipe says, not as the checkpoint's did
            if not self.loop.resumed:
                self.loop.rehearse()
                if not args.eval_on_start:  # else it is saved with what that validation found
                    self.loop._save_checkpoint(self.loop.model_wrapped, None)
            self.loop.clock = self.loop.saved_at = time.monotonic()

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            weights_changed()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.loop.heed_signal()
            if args.device.type == "cpu":
                self.growth.step_ended()
            if time.monotonic() - self.loop.saved_at >= self.loop.checkpoint_minutes * 60:
                control.should_save = True

    class Loop(trl.SFTTrainer):  # type: ignore[misc]
        """One training run.

        Args:
            job: what to train, and whom to tell.
            rows, watched: tokenised training and validation rows, each with its `origin`.
            path: FTP's own path through the model; None for the model's own forward on padded batches.
            best_by: `loss`, or the metric of an evaluator that `job.score` knows, taken on `dev_rows` rows.
        """

        def __init__(
            self,
            job: ftp.TrainingJob,
            args: Any,
            rows: TokenRows,
            watched: TokenRows,
            path: FastPath | None,
            checkpoints: saved.Checkpoints,
            best_by: str,
            dev_rows: int,
            checkpoint_minutes: float,
        ) -> None:
            self.job, self.rows, self.watched, self.path = job, rows, watched, path
            self.checkpoints, self.best_by, self.dev_rows = checkpoints, best_by, dev_rows
            self.checkpoint_minutes = checkpoint_minutes
            self.batches = Batches(rows.lengths().tolist(), args.per_device_train_batch_size, args.seed, path is None)
            tokenizer = job.model.tokenizer
            self.collate: Callable[..., Any] = (
                functools.partial(padded_batch, pad=tokenizer.pad_token_id) if path is None else packed_batch
            )
            self.progress: dict[str, Any] = {
                "tokens": 0, "seconds": 0.0, "best": math.inf, "best_step": 0, "best_loss": math.inf, "first": math.inf,
                "factor": 1.0,
            }  # fmt: skip
            self.answer: ftp.Stop | ftp.RollBack | None = None
            self.signal = 0
            self.resumed = False
            self.clock = self.saved_at = time.monotonic()
            types = {name: weight.data for name, weight in job.model.model.named_parameters() if weight.requires_grad}
            self.optimizer: Any
            self.lr_scheduler: Any
            super().__init__(
                model=job.model.model,
                args=args,
                train_dataset=Dataset(rows.table),
                eval_dataset=Dataset(watched[:1].table) if watched else None,
                data_collator=self.collate,
                processing_class=tokenizer,
            )
            for name, weight in job.model.model.named_parameters():
                if name in types and weight.dtype != types[name].dtype:
                    weight.data = types[name]  # TRL makes the adapters of 4-bit models bfloat16: too coarse for steps
            self.remove_callback(PrinterCallback)
            self.add_callback(Hooks(self))
            if path is not None:
                self.loss_is_scaled_for_ga = True

        # --- batches and their loss

        def get_train_dataloader(self) -> Any:
            loader = torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=self.batches, collate_fn=self.collate,
                pin_memory=self.args.dataloader_pin_memory,
            )  # fmt: skip
            return self.accelerator.prepare(loader)

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            count = torch.tensor(sum(map(trained_in, batch_samples)), device=device)
            return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            self.progress["tokens"] += inputs.pop("tokens")
            if self.path is None:
                return super().training_step(model, inputs, num_items_in_batch)
            with self.path.attention():
                return super().training_step(model, inputs, num_items_in_batch)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self.path is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return self.path.loss(inputs) / num_items_in_batch

        def floating_point_ops(self, inputs: Any) -> int:
            return 0  # its count is wrong for packed batches, and nothing reads it

        # --- what is measured, and what the watchers say to it

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" not in logs:
                return
            now = time.monotonic()
            seconds = now - self.clock
            self.clock = now
            tokens = self.progress["tokens"]
            self.progress["seconds"] += seconds
            done = tokens - self.progress.get("counted", 0)
            self.progress["counted"] = tokens
            answer = self.job.emit(
                "metric",
                step=self.state.global_step,
                epoch=self.state.epoch,
                loss=logs["loss"],
                grad_norm=logs.get("grad_norm"),
                learning_rate=logs.get("learning_rate"),
                tokens=tokens,
                seconds=self.progress["seconds"],
                tokens_per_second=done / seconds if seconds else None,
                memory_mb=peak_memory_mb(self.args.device),
            )
            self.obey(answer)
            if answer is None and not math.isfinite(logs["loss"]):
                raise ftp.ModelError(
                    f"the training loss is {logs['loss']} at step {self.state.global_step}; lower train.learning_rate, "
                    "or load the model in bfloat16 or float32"
                )

        def obey(self, answer: ftp.Stop | ftp.RollBack | None) -> None:
            if answer is None or isinstance(self.answer, ftp.Stop):
                return
            self.answer = answer
            self.progress["stopped"] = isinstance(answer, ftp.Stop)
            self.control.should_training_stop = True
            self.control.should_save = isinstance(answer, ftp.Stop)

        def heed_signal(self) -> None:
            if self.signal:
                self.control.should_training_stop = True
                self.control.should_save = not isinstance(self.answer, ftp.RollBack)  # not what is to be undone

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            """Mean loss per trained token of the validation rows, each token counted once.

            TRL's own is a mean of batch means, which weighs a token by the length of its neighbours.
            """
            step = self.state.global_step
            found = token_losses(self.job.model, self.watched, batch_tokens=self.largest_batch())
            loss = math.fsum(f.nll for f in found) / sum(f.tokens for f in found)
            values: dict[str, Any] = {"loss": loss, "best_by": self.best_by}
            sources = self.watched.table.column("origin").to_pylist()
            if len(set(sources)) > 1:
                values["by_source"] = {
                    name: math.fsum(f.nll for f, s in zip(found, sources, strict=True) if s == name)
                    / sum(f.tokens for f, s in zip(found, sources, strict=True) if s == name)
                    for name in dict.fromkeys(sources)
                }
            value = loss
            if self.best_by != "loss" and self.job.score is not None:
                score = self.job.score(self.best_by, self.dev_rows)
                values["score"], value = score, -score
            if step == 0:
                self.progress["first"] = loss
            if step and value < self.progress["best"]:  # the untrained model is no candidate
                self.progress |= {"best": value, "best_step": step, "best_loss": loss}
                with self.checkpoints.new(saved.best_name(step)) as directory:
                    saved.save_weights(directory, self.job.model.model)
            metrics = {"eval_loss": loss}
            self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            self.obey(self.job.emit("validation", step=step, epoch=self.state.epoch or 0.0, **values))
            self.heed_signal()
            if step == 0:
                self._save_checkpoint(self.model_wrapped, None)
            return metrics

        def largest_batch(self) -> int:
            """Tokens of the largest batch that training can meet: what an evaluation may take at once."""
            lengths = sorted(self.batches.lengths, reverse=True)
            return sum(lengths[: self.batches.batch_size])

        # --- checkpoints

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if not self.is_finite():
                return  # nothing to go on from; the one before is kept
            step = self.state.global_step
            self.progress["seconds"] += time.monotonic() - self.clock
            self.clock = time.monotonic()
            with self.checkpoints.new(saved.step_name(step)) as directory:
                self.write_state(directory)
            self.checkpoints.keep_only(step, self.progress["best_step"])
            self.saved_at = time.monotonic()
            self.job.emit("checkpoint", step=step)

        def is_finite(self) -> bool:
            return all(bool(w.isfinite().all()) for w in self.job.model.model.parameters() if w.requires_grad)

        def write_state(self, directory: Path) -> None:
            saved.save_weights(directory, self.job.model.model)
            self._save_optimizer_and_scheduler(str(directory))
            self._save_scaler(str(directory))
            self._save_rng_state(str(directory))
            self.state.save_to_json(str(directory / TRAINER_STATE_NAME))
            saved.save_progress(directory, self.progress)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            directory = Path(resume_from_checkpoint)
            saved.load_weights(directory, self.job.model.model)
            weights_changed()
            self.progress = saved.load_progress(directory)
            self.resumed = True

        def is_over(self, checkpoint: Path, steps: int) -> bool:
            """Whether training had come to its end, with this as its last checkpoint; then its state is taken up."""
            step = saved.step_of(checkpoint)
            if step < steps and not saved.load_progress(checkpoint).get("stopped"):
                return False
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = step
            return True

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is None:
                return
            # A roll-back lowers the rate of a checkpoint that was saved with the higher one.
            rate = self.args.learning_rate * self.progress["factor"]
            scheduler = self.lr_scheduler
            scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
            for group in self.optimizer.param_groups:
                group["initial_lr"] = rate
                group["lr"] = rate * scheduler.lr_lambdas[0](scheduler.last_epoch)
            scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

        def restart(self, checkpoint: Path, factor: float) -> None:
            """Make ready for another `train` from a checkpoint, at a lower rate that an interruption doesn't undo."""
            self.answer = None
            progress = saved.load_progress(checkpoint)
            saved.save_progress(checkpoint, {**progress, "factor": progress["factor"] * factor})
            self.optimizer = self.lr_scheduler = None
            self.model_wrapped = self.model
            self.control.should_training_stop = self.control.should_save = False

        # --- before the first step

        def rehearse(self) -> None:
            """The largest batch forward and backward, an optimizer's state, a validation, a save and a reload.

            What would fail hours into the run fails here, with weights, optimizer and random numbers as they were.
            """
            began = time.monotonic()
            model = self.job.model.model
            longest = sorted(range(len(self.rows)), key=lambda row: -self.batches.lengths[row])
            batch = longest[: self.batches.batch_size]
            with torch.random.fork_rng(), too_much_memory(len(batch), self.batches.lengths[batch[0]]):
                inputs = self.collate([self.train_dataset[row] for row in batch])
                count = torch.tensor(trained_in(inputs), device=self.args.device)
                self.current_gradient_accumulation_steps = 1
                self.training_step(self.model_wrapped, inputs, count)
                for weight in model.parameters():
                    if weight.grad is not None:
                        weight.grad.zero_()
                rates = [group["lr"] for group in self.optimizer.param_groups]
                for group in self.optimizer.param_groups:
                    group["lr"] = 0.0 * group["lr"]
                self.optimizer.step()
                for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
                if self.watched:
                    longest_watched = int(self.watched.lengths().argmax())
                    rows = self.watched.take([longest_watched])
                    token_losses(self.job.model, rows, batch_tokens=self.largest_batch())
                if self.is_finite():  # the first step tells of weights that are not
                    self.rehearse_saving()
            self.optimizer.state.clear()
            model.zero_grad()
            self.progress |= {"tokens": 0, "seconds": 0.0}
            seconds = time.monotonic() - began
            memory = peak_memory_mb(self.args.device)
            self.job.emit("rehearsal", rows=len(batch), tokens=self.largest_batch(), seconds=seconds, memory_mb=memory)

        def rehearse_saving(self) -> None:
            """Save and reload, beside the checkpoints: the optimizer's state is that of a step that is never taken."""
            with self.checkpoints.new("rehearsal") as directory:
                self.write_state(directory)
            trial = self.checkpoints.directory / "rehearsal"
            before = {n: w.detach().clone() for n, w in self.job.model.model.named_parameters() if w.requires_grad}
            saved.load_weights(trial, self.job.model.model)
            for name, weight in self.job.model.model.named_parameters():
                if name in before and not torch.equal(weight, before[name]):
                    raise ftp.ModelError(f"{trial}: '{name}' is not what was saved")
            shutil.rmtree(trial)

    return Loop
