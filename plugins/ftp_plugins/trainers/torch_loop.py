"""The training loop: TRL's trainer with FTP's batches and parts, and an objective for its loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import trl
from transformers import TrainerCallback

import ftp
from ftp.lm.rendering import stop_ids
from ftp.lm.torch_products import type_to_multiply_in
from ftp.lm.training.torch_deterministic import deterministic
from ftp.lm.training.torch_parts import TrainingParts
from ftp.lm.training.torch_processes import current
from ftp.lm.training.torch_run import train
from ftp.lm.training.torch_trainer import TrainerWithParts, weight_types_kept
from ftp_plugins.speed.torch_batches import Batches
from ftp_plugins.speed.torch_layers import without_fast_layers
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.speed.torch_shares import Shares, empty_batch, is_empty
from ftp_plugins.trainers.loop_options import LoopOptions
from ftp_plugins.trainers.optimizers import optimizer_named
from ftp_plugins.trainers.torch_arguments import training_arguments
from ftp_plugins.trainers.torch_neftune import embedding_noise
from ftp_plugins.trainers.torch_objective import Objective
from ftp_plugins.trainers.torch_optimizers import make_optimizer, parameter_groups, state_bytes

T = TypeVar("T", bound="LoopTrainer")


class LoopTrainer(TrainerWithParts, trl.SFTTrainer):  # type: ignore[misc]
    """One training run, whatever its loss.

    TRL's SFTTrainer prepares models, adapters and activation checkpointing; rows and loss are the objective's.

    Args:
        job: what to train, and whom to tell.
        objective: the loss with its rows; its `path` is set.
        options: of the training.
    """

    def __init__(self, job: ftp.TrainingJob, args: Any, objective: Objective, options: LoopOptions) -> None:
        self.objective, self.path, self.options = objective, objective.path, options
        self.batches = objective.batches(args.per_device_train_batch_size, args.seed, args.gradient_accumulation_steps)
        self.sampler: Batches | Shares = self.batches
        if current().count > 1:
            shares = Shares(self.batches, args.gradient_accumulation_steps, current().rank, current().count)
            args.gradient_accumulation_steps = shares.at_once
            args.per_device_train_batch_size = shares.rows_at_once
            self.sampler = shares
        self.rehearses = False
        self.optimizer: Any
        self.lr_scheduler: Any
        with weight_types_kept(job.model.model):
            super().__init__(
                model=job.model.model,
                args=args,
                train_dataset=objective.dataset,
                eval_dataset=objective.dataset.select([0]) if objective.validates else None,
                data_collator=lambda rows: objective.collate(rows) if rows else empty_batch(),
                processing_class=job.model.tokenizer,
            )
        parts = TrainingParts(
            job,
            objective.lengths,
            objective.trained_tokens,
            log_also=objective.figures,
            loss_unit=objective.loss_unit,
            repeats=objective.repeats,
            best_by=options.best_by,
            dev_rows=options.dev_rows,
            checkpoint_minutes=options.checkpoint_minutes,
            checkpoints_kept=options.save_total,
        )
        if objective.validates:
            parts.validation = objective.validation(parts.largest_batch(args.per_device_train_batch_size))
        self.use_parts(parts)
        if self.path is not None:
            self.add_callback(CopiesFollow(self.path))

    def get_train_dataloader(self) -> Any:
        """Return batches whose rows are a function of the seed and the epoch alone."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=self.sampler, collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimizer that the options name."""
        if self.optimizer is None:
            model, rate = model or self.model, self.args.learning_rate
            decaying = self.get_decay_parameter_names(model)
            ratio = self.options.loraplus_lr_ratio
            groups = parameter_groups(model, set(decaying), rate, self.args.weight_decay, ratio)
            self.optimizer = make_optimizer(optimizer_named(self.options.optimizer), model, groups, rate)
        return self.optimizer

    def optimizer_bytes(self) -> int:
        """Return the bytes of the optimizer's state."""
        return state_bytes(optimizer_named(self.options.optimizer), self.parts.job.model.model)

    def rehearse(self) -> None:
        """Rehearse, and let the objective know."""
        self.rehearses = True
        try:
            super().rehearse()
        finally:
            self.rehearses = False

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        self.objective.prepare(batch_samples, self.state.global_step + 1, self.rehearses)
        own = sum(self.objective.count(batch) for batch in batch_samples if not is_empty(batch))
        (count,) = current().sums(own)
        return torch.tensor(count, device=device)

    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps in an epoch, which is the same for any number of processes."""
        accumulated: int = self.args.gradient_accumulation_steps
        return math.ceil(len(self.sampler) / accumulated)

    def count_tokens(self, inputs: Mapping[str, Any]) -> int:
        """Return the count that came with the batch."""
        return int(inputs.pop("tokens"))  # type: ignore[attr-defined]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Keep attention inside each row where rows are packed."""
        if self.path is None:
            return super().training_step(model, inputs, num_items_in_batch)
        with self.path.attention():
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective's loss, or TRL's where it leaves that to the library; 0 for a process without a row."""
        if is_empty(inputs):
            return torch.zeros((), device=self.args.device, requires_grad=True)
        loss = self.objective.loss(model, inputs, num_items_in_batch)
        if loss is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.loss_is_scaled_for_ga = True
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the objective's figures of the step."""
        super().log({**logs, **self.objective.step_figures()}, start_time)

    def write_state(self, directory: Path) -> None:
        """Write the objective's state too."""
        super().write_state(directory)
        self.objective.save(directory)

    @contextlib.contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Take the fast layers out of the model inside the block, too: some multiply in bfloat16."""
        with super().as_evaluated(), without_fast_layers(self.parts.job.model.model):
            yield

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.objective.load(Path(resume_from_checkpoint))
        if self.path is not None:
            self.path.weights_changed()


class CopiesFollow(TrainerCallback):  # type: ignore[misc]
    """Reports every optimizer step to the fast path."""

    def __init__(self, path: FastPath) -> None:
        self.path = path

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.path.weights_changed()


def run_loop(options: LoopOptions, job: ftp.TrainingJob) -> ftp.TrainResult:
    """Train as the options say and return the best state."""
    with ready_trainer(LoopTrainer, options, job) as trainer:
        return train(trainer)


@contextlib.contextmanager
def ready_trainer(kind: type[T], options: LoopOptions, job: ftp.TrainingJob) -> Iterator[T]:
    """Give a trainer of the class `kind` that is ready to train; the model is as before when the block ends.

    Raises:
        DataError: no row is left to train on.
    """
    model, tokenizer = job.model.model, job.model.tokenizer
    name = optimizer_named(options.optimizer).name
    if name.startswith("paged") and job.model.model.device.type == "cpu":
        job.emit("note", text=f"{name}: on a CPU there is nothing to page; it trains as {name.removeprefix('paged_')}.")
    loaded = ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, model.generation_config.eos_token_id))
    objective = options.objective(job, loaded)
    with deterministic(options.deterministic), fast_path(options, job, objective) as objective.path:
        objective.autocast = objective.path is None and multiplies_in_bfloat16(options, job.model)
        objective.begin()
        args = training_arguments(options, job, objective)
        trainer = kind(job, args, objective, options)
        try:
            with embedding_noise(model, options.neftune_noise_alpha):
                yield trainer
        finally:
            # Accelerate leaves its bfloat16 autocast around forward; the base answered without it.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


@contextlib.contextmanager
def fast_path(options: LoopOptions, job: ftp.TrainingJob, objective: Objective) -> Iterator[FastPath | None]:
    """Give FTP's own path with its layers put in while the block lasts, or None with a note why not."""
    model = job.model.model
    products = products_of(options, job.model)
    if options.speed == "off":
        job.emit("speed", on=[], why_not="speed: off", **products)
        yield None
        return
    why_not = FastPath.why_not(model, longest=int(objective.tokens.lengths().max()))
    if why_not is None:
        # Weights of the model itself that train in float32, and no adapter beside them.
        mixes = multiplies_in_bfloat16(options, job.model) and not hasattr(model, "peft_config")
        path = FastPath(model, torch.bfloat16 if mixes else torch.float32, objective.token_loss)
        if options.neftune_noise_alpha is not None:
            path.separately = path.separately or "every row draws its own noise"
        why_not = path.disagrees(objective.tokens)
    if why_not is None:
        with path.layers() as layers:
            on = ["packed rows", "loss only at labels", *layers]
            shared = objective.shared_tokens(path, options.batch_size, job.seed)
            job.emit("speed", on=on, why_not=None, shared_tokens=shared, separately=path.separately, **products)
            yield path
        return
    job.emit("speed", on=[], why_not=why_not, **products)
    job.emit("note", text=f"The fast path is off, because {why_not}; training uses {objective.slow_path}.")
    yield None


def multiplies_in_bfloat16(options: LoopOptions, loaded: ftp.LoadedModel) -> bool:
    """Whether a model's float32 weights multiply in bfloat16; others do in their own type."""
    if options.precision != "auto" or loaded.model.dtype != torch.float32:
        return False
    compute = loaded.request.compute
    return (type_to_multiply_in(loaded.model.device.type)[0] if compute == "auto" else compute) == "bfloat16"


def products_of(options: LoopOptions, loaded: ftp.LoadedModel) -> dict[str, Any]:
    """Return the type of matrix products, and the GFLOP/s that were measured for the choice."""
    adapts, quantization = hasattr(loaded.model, "peft_config"), loaded.request.quantization
    used = quantization.compute_dtype if quantization else str(loaded.model.dtype).removeprefix("torch.")
    if not adapts and multiplies_in_bfloat16(options, loaded):
        used = "bfloat16"
    return {"multiplies_in": used, "gflops": {name: round(speed, 1) for name, speed in loaded.gflops.items()}}
